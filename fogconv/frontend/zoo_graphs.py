"""The zoo's graphs without their weights, as the package carries them: enough to plan and predict, without torch.

fogconv/frontend/data/graphs.bin holds them (`python -m bench.zoo_graphs` writes it): models at their usual size, one
image, without those that have layers for torch. `graph` gives weights that have a shape only, or seeded ones to compute
with.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from fogconv.errors import InputError, unknown
from fogconv.frontend.graph_file import layer_of, without_lists
from fogconv.ir.graph import LayerGraph, Port, Structure
from fogconv.ir.layers import Affine, Conv, Tensor
from fogconv.zoo.accuracy import accuracies

PLACE = "data/graphs.bin"
BLOCK = 65_521
"""Seeded weights repeat after so many: making millions of them would take longer than a board computes with them."""


class Shaped(msgspec.Struct, frozen=True):
    """A graph whose weights are shapes by their keys, which are numbers from 0 on."""

    tensors: tuple[Tensor, ...]
    layers: tuple[tuple[str, dict[str, Any]], ...]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    structure: Structure
    weights: dict[str, tuple[int, ...]]


def shaped(graph: LayerGraph) -> Shaped:
    """A graph without its weights. Their keys, which are hashes, become short ones."""
    keys = {key: str(number) for number, key in enumerate(graph.weights)}
    layers = []
    for layer in graph.layers:
        fields = msgspec.to_builtins(layer)
        for name in layer.weight_keys:
            if fields[name] is not None:
                fields[name] = keys[fields[name]]
        layers.append((type(layer).__name__, fields))
    shapes = {keys[key]: tuple(array.shape) for key, array in graph.weights.items()}
    return Shaped(graph.tensors, tuple(layers), graph.inputs, graph.outputs, graph.structure, shapes)


def write_shaped(path: Path, graphs: Mapping[str, Shaped]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(zlib.compress(msgspec.msgpack.encode(dict(sorted(graphs.items()))), 9))


@cache
def read_shaped() -> Mapping[str, Shaped]:
    """All of them by name."""
    data = resources.files("fogconv.frontend").joinpath(PLACE).read_bytes()
    return msgspec.msgpack.decode(zlib.decompress(data), type=dict[str, Shaped])


def names() -> tuple[str, ...]:
    return tuple(read_shaped())


def graph(name: str, *, seeded: bool = False) -> LayerGraph:
    """The graph of a model. Its weights take no memory and are all 0, or with ``seeded`` are normal with variance 2/fan_in
    (He et al. 2015), which keeps activations in range, and repeat. Raises InputError for a model that is not among `names`.
    """
    found = read_shaped().get(name)
    if found is None:
        if name in accuracies():
            raise InputError(f"{name} has layers that only torch can run: there is no prediction of its time")
        raise InputError(unknown("model", name, names()))
    layers = tuple(layer_of(kind, fields) for kind, fields in found.layers)
    weights: dict[str, NDArray[np.float32]] = {}
    for key, shape in found.weights.items():
        weights[key] = np.broadcast_to(np.float32(0), shape)
    if seeded:
        kernels = {layer.weight for layer in layers if isinstance(layer, Conv)}
        scales = {layer.scale for layer in layers if isinstance(layer, Affine)}
        normal = np.random.default_rng(0).standard_normal(BLOCK, np.float32)
        for key, shape in found.weights.items():
            if key in kernels:
                scale = np.float32(math.sqrt(2 / math.prod(shape[1:])))
                # Rolled, because equal weights would be one.
                weights[key] = np.resize(np.roll(normal, int(key)) * scale, shape)
            else:
                weights[key] = np.full(shape, (1.0 if key in scales else 0.1) + 1e-5 * int(key), np.float32)
    return LayerGraph(name, found.tensors, layers, found.inputs, found.outputs, weights, without_lists(found.structure))
