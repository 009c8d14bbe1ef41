"""Transports: a narrow interface, and the ways across it."""
