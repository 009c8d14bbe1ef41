"""Precision: what the numbers of maps and weights are. Read by every command: no NumPy here."""
