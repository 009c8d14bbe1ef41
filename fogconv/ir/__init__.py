"""The data that ranks exchange: shapes, layers, shards, layouts, plans, programs."""
