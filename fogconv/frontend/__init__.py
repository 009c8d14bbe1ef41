"""Conversion of a model to a LayerGraph."""
