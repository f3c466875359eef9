"""Show it: figures, tables, traces. The only package that draws."""
