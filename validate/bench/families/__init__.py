"""One module an operator family: `make(op, pool)` gives one closure an input set."""
