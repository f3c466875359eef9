"""Whole models timed and weighed on a device: inference, prefill, decode and training steps."""
