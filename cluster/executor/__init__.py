"""Executors: run a rank's Program as calls of kernels; the messages that they wait for."""
