"""The choice of models and plans."""
