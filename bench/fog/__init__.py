"""An emulated fog cluster on one Linux machine, and the experiment on it (``python -m bench.fog``)."""

from bench.fog.testbed import Card, FogBed, Node

__all__ = ["Card", "FogBed", "Node"]
