"""What `fogconv bench` runs, on one device or a cluster, and how two of its results compare."""
