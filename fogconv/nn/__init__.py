"""Layers of torch that run on a cluster."""
