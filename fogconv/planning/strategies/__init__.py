"""Strategies: the ways in which a layer can be computed on a cluster, as layouts in and layouts out; a file per family."""
