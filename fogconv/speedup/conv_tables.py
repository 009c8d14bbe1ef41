"""Nets: the conv layers of common nets by name, for a calculator without torch.

fogconv/speedup/data/convs.json holds them (`python -m bench.conv_shapes` writes it). Nets that it lacks are exported,
with torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib import resources

import msgspec
import numpy as np

from fogconv.errors import DependencyError, InputError, unknown, with_extra
from fogconv.ir.geometry import ConvSpec
from fogconv.ir.graph import LayerGraph
from fogconv.ir.layers import Conv, Tensor


@dataclass(frozen=True, slots=True)
class NamedConv:
    """A conv layer and its name in the model."""

    name: str
    spec: ConvSpec


_Row = tuple[str, int, int, int, int, tuple[int, int], tuple[int, int], tuple[int, int, int, int], tuple[int, int], int]


class _Net(msgspec.Struct):
    size: int
    convs: tuple[_Row, ...]


class _File(msgspec.Struct):
    source: str
    nets: dict[str, _Net]


@cache
def _file() -> _File:
    return msgspec.json.decode(resources.files("fogconv.speedup").joinpath("data/convs.json").read_bytes(), type=_File)


def convs(name: str, *, size: int | tuple[int, int] | None = None, batch: int = 1) -> tuple[NamedConv, ...]:
    """The conv layers of a net in their order. Raises InputError for an unknown net or a size that makes a map empty.

    A net that the table lacks, or a size other than the usual one, is built and exported (which needs torch).
    """
    net = _file().nets.get(name)
    if net is not None and size in (None, net.size):
        return tuple(NamedConv(row[0], _spec(row, batch)) for row in net.convs)
    return _exported(name, size, batch)


def network(name: str, *, size: int | tuple[int, int] | None = None, batch: int = 1) -> LayerGraph | None:
    """The whole net; None where it would have to be exported, and there is no torch."""
    from fogconv.frontend import zoo_graphs

    if size is None and batch == 1 and name in zoo_graphs.names():
        return zoo_graphs.graph(name)
    try:
        from fogconv.frontend.network import network_graph
        from fogconv.zoo.model_request import ModelRequest

        return network_graph(ModelRequest.for_shapes(name, size), batch=batch)
    except (ImportError, DependencyError):
        return None


def layer_network(layer: NamedConv) -> LayerGraph:
    """A net of this one layer."""
    spec = layer.spec
    shapes = (
        (spec.batch, spec.in_channels, spec.height, spec.width),
        (spec.batch, spec.out_channels, spec.out_height, spec.out_width),
    )
    tensors = (Tensor("input", *shapes[0]), Tensor(layer.name, *shapes[1]))
    weights = {"w": np.broadcast_to(np.zeros((), np.float32), spec.weight_shape)}
    return LayerGraph.single(layer.name, tensors, (Conv(layer.name, 0, 1, spec, "w", None, None),), 0, 1, shapes[1], weights)


def _spec(row: _Row, batch: int) -> ConvSpec:
    _, c, f, height, width, kernel, stride, padding, dilation, groups = row
    return ConvSpec(c, f, height, width, kernel, stride, padding, dilation, groups, batch)


def _exported(name: str, size: int | tuple[int, int] | None, batch: int) -> tuple[NamedConv, ...]:
    try:
        from fogconv.frontend.network import network_graph
        from fogconv.zoo.model_request import ModelRequest, is_model_file
        from fogconv.zoo.models import model_names
    except ImportError as error:
        if name in _file().nets:
            raise DependencyError(f"another size of {name} needs torch: {with_extra('master')}") from error
        raise InputError(unknown("net", name, _file().nets) + f" without torch: {with_extra('master')}") from error
    if not is_model_file(name) and name not in model_names():
        raise InputError(unknown("net", name, (*model_names(), *_file().nets)))
    graph = network_graph(ModelRequest.for_shapes(name, size), batch=batch)
    return tuple(NamedConv(layer.name, layer.spec) for layer in graph.convs)
