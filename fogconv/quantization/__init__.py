"""Quantisation: a graph in fp32 becomes one on bytes, with ranges from pictures."""
