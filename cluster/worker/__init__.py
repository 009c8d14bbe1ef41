"""The worker: serve masters, hold weights, run programs."""
