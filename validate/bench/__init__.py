"""Measuring harness: one operator description in, one measured latency out.

Needs PyTorch and NumPy on the machine that is measured; planning, storing and gating need neither.
"""
