"""Conversion of an ONNX model to a LayerGraph; one rule per operator. No torch here."""
