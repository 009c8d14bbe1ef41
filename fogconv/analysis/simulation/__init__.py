"""Inferences simulated message by message, and what other hardware would take."""
