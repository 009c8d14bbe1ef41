"""A model becomes a LayerGraph."""
