"""Dealing: the weights of each layer are divided among some ranks, and its rows among groups of these."""
