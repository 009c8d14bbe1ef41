"""Winograd convolution on bytes, exact."""
