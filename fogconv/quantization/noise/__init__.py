"""Noise: what quantising costs, of each layer by itself and at the end of the graph."""
