"""A Plan becomes one Program per rank."""
