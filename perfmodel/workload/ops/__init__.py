"""Operator families, a module each; :mod:`perfmodel.workload.op` re-exports them."""
