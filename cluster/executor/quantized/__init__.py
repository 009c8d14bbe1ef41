"""Steps on 8-bit maps: how they are bound to the kernels."""
