"""Faults: a cluster's behaviour when workers die, stall or are disconnected, and when unknown peers send malformed
messages."""
