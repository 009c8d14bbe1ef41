"""Admission: which peers a bound socket listens to, and for how much."""
