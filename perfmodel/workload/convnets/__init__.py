"""Convolutional networks: a small graph of feature maps, the known networks, and their calls."""
