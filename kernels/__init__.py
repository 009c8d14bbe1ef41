"""Kernels: numpy and numba only."""
