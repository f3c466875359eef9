"""Sparse products: fit and score of what was measured."""
