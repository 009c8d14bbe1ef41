"""Layers of torch that run on a cluster: `DistributedConv2d`, and `distribute`, which puts them into a model."""

from __future__ import annotations

from fogconv.nn.conv import DistributedConv2d
from fogconv.nn.replace import LayerReport, distribute

__all__ = ["DistributedConv2d", "LayerReport", "distribute"]
