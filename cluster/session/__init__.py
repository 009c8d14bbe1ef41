"""The master's side: open, load, run, close; the present workers, and the sending of weights."""
