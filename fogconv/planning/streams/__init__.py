"""Plans for streams: stages of layers on ranks of their own (a pipeline), whole frames per rank (replicas), or both."""
