"""Models by name, pictures, and weights."""
