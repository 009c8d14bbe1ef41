"""Inferences that begin before all weights are on the workers."""
