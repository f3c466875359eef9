"""Grouped convolutions on a real GPU: a table-driven persistent kernel, and what it must beat."""
