"""From a program of aten operators to the kernels, host calls and allocations of a stack."""
