"""Quantised models: a graph in fp32 with conversions to 8 bits and back becomes one that computes on bytes."""
