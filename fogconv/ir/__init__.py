"""The nouns that travel: shapes, layers, shards, layouts, plans, programs."""
