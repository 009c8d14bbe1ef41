"""Paths of layouts through a graph, and the cheapest of them."""
