"""Conversion of torch.export's program to a LayerGraph; one rule per operator."""
