"""Faults: what a cluster is worth when workers die, stall and are cut off, and when strangers send nonsense."""
