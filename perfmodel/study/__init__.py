"""What if: recipes that put the lower layers together, sweep them, and say what came out."""
