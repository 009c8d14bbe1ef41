"""Streams on the emulated cluster: frames per second of all nodes together, over those of the same nodes alone."""
