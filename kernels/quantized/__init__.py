"""Kernels on 8 bits: maps of uint8, weights of int8, exact sums of int32."""
