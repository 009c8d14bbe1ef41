"""Processes that compile a program's kernels beside the one that will run it."""
