"""torch.export's program becomes a LayerGraph; one rule per operator."""
