"""Latency: predictors of a step's seconds, what they learn from, and what they see of it."""
