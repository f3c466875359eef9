"""Eager PyTorch: the kernels of each aten operator, a module for each sort of operator."""
