"""Convolutions: one algorithm per file, and which one is chosen."""
