"""perfmodel: how fast, how big and how costly a machine-learning workload will be."""

__version__ = "0.1.0"
