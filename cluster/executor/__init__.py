"""Executors: what turns a rank's Program into calls of kernels, and the mail that they wait for."""
