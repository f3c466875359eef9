"""Questions asked of perfmodel: each script draws its answer and asserts it."""
