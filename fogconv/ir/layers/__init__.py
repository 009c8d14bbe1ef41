"""Layers: the kinds of layer that a graph (`fogconv.ir.graph`) consists of, and the maps between them.

A Tensor is a map (N, C, H, W), in fp32 or in another `Precision`. A layer reads and writes tensors by number. A linear layer
is a conv whose kernel covers its whole input, so that it splits by the same rules. An operation that fogconv's workers don't
know is a Host layer: it runs in torch on the master; its inputs are gathered and its outputs are sent on.

Each type of layer defines what it reads, how it may be split and what it costs; code above asks the layer instead of
testing its type. A new elementwise operator needs no new type (see Elementwise).
"""

from __future__ import annotations

from fogconv.ir.layers.channels import Concat, Shuffle, Slice
from fogconv.ir.layers.conv import Conv
from fogconv.ir.layers.host import Host, Hosted
from fogconv.ir.layers.norms import AcrossChannels, Normalize, Squares
from fogconv.ir.layers.operator import Needs, Operator
from fogconv.ir.layers.pointwise import Add, Affine, Convert, Elementwise, Gate
from fogconv.ir.layers.pooling import GlobalPool, Pool
from fogconv.ir.layers.space import Interleave, Resample
from fogconv.ir.layers.tensor import Tensor

__all__ = [
    "AcrossChannels",
    "Add",
    "Affine",
    "Concat",
    "Conv",
    "Convert",
    "Elementwise",
    "Gate",
    "GlobalPool",
    "Host",
    "Hosted",
    "Interleave",
    "Layer",
    "Needs",
    "Normalize",
    "Operator",
    "Pool",
    "Resample",
    "Shuffle",
    "Slice",
    "Squares",
    "Tensor",
]

Layer = (
    Conv
    | Pool
    | GlobalPool
    | Squares
    | Normalize
    | AcrossChannels
    | Add
    | Affine
    | Elementwise
    | Gate
    | Concat
    | Slice
    | Shuffle
    | Resample
    | Interleave
    | Convert
    | Host
)
