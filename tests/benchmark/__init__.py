"""The fixed set of `fogconv bench`, and the comparison of two results."""
