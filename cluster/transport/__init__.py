"""Transports: a narrow interface and its implementations."""
