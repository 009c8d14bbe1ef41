"""Building: a LayerGraph grows while a frontend reads a model."""
