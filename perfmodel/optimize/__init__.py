"""What should we do: exact search over uniform plans, integer programmes for the rest."""
