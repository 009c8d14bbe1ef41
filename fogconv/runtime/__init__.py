"""The engine: members, loaded programs, streams, drift, rejoining."""
