"""Sampling loops that take apply functions, never modules."""
