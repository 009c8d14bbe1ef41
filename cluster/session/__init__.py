"""The master's side: open, load, run, close; who is there, and weights on their way."""
