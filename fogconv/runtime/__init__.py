"""The engine: who is there, what is loaded, streams, drift, rejoining."""
