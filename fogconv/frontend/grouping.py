"""Grouping: drop what the output does not need, merge neighbouring hosted operations, and number what is left."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from fogconv.errors import ModelError
from fogconv.frontend.building.graph_builder import GraphBuilder
from fogconv.frontend.building.hosted import HostOp
from fogconv.frontend.building.values import Hosted, Ref
from fogconv.frontend.fusion import Draft, fuse, nest_concats
from fogconv.frontend.zero_channels import without_zero_channels
from fogconv.ir.arrays import Array, weight_key
from fogconv.ir.graph import LayerGraph, Port, Structure
from fogconv.ir.layers import Host, Layer, Tensor


@dataclass(frozen=True)
class Group:
    """Hosted operations that become one Host layer. ``kept``: the values that later groups read; ``results``: those that
    are outputs of the model."""

    nodes: tuple[HostOp, ...]
    kept: tuple[Hashable, ...]
    results: tuple[Hashable, ...]

    @property
    def reads(self) -> tuple[Hashable, ...]:
        """The values from outside, each once, in the order in which they are read first."""
        inside = {made for op in self.nodes for made in op.makes}
        return tuple(dict.fromkeys(value for op in self.nodes for value in op.reads if value not in inside))


@dataclass(frozen=True)
class Ends:
    """A model's ends. ``results``: what the frontend names each output by."""

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    results: tuple[Hashable, ...]
    structure: Structure

    @property
    def maps(self) -> tuple[int, ...]:
        """The outputs that are maps, as often as they are outputs."""
        return tuple(port.tensor for port in self.outputs if port.tensor is not None)

    @property
    def values(self) -> frozenset[Hashable]:
        """The outputs that host layers return."""
        return frozenset(key for key, port in zip(self.results, self.outputs, strict=True) if port.tensor is None)


def finished(
    name: str,
    builder: GraphBuilder,
    host: Callable[[Group], Host],
    ends: Ends,
    dtype: type,
    info: Mapping[str, str],
) -> LayerGraph:
    """The graph of what was built. ``host`` makes a Host layer of a group."""
    layers = _grouped(_live(builder, ends), builder, host, ends)
    fused, draft = fuse(layers, builder.draft, ends.maps)
    return without_zero_channels(_numbered(name, fused, draft, builder, ends, dtype, info))


def _live(builder: GraphBuilder, ends: Ends) -> list[Layer | HostOp]:
    """The items that the outputs depend on."""
    wanted = set(ends.maps)
    values: set[Hashable] = set(ends.values)
    kept: list[Layer | HostOp] = []
    for item in reversed(builder.items):
        if isinstance(item, HostOp):
            if values.isdisjoint(item.makes) and wanted.isdisjoint(
                builder.written[made] for made in item.makes if made in builder.written
            ):
                continue
            for source in item.reads:
                value = builder.values[source]
                if isinstance(value, Ref):
                    wanted.add(value.tensor)
                elif isinstance(value, Hosted):
                    values.add(source)
        elif not wanted.isdisjoint(item.writes):
            wanted.update(item.reads)
        else:
            continue
        kept.append(item)
    return kept[::-1]


def _grouped(
    items: Sequence[Layer | HostOp], builder: GraphBuilder, host: Callable[[Group], Host], ends: Ends
) -> list[Layer]:
    """Neighbouring hosted operations as one Host layer, never in a cycle.

    In turns, all layers that can run are taken, then all hosted operations that can: the groups of hosted operations are
    then as large as possible, and without hosted operations the order does not change.
    """
    done_maps = {port.tensor for port in ends.inputs}
    done_values: set[Hashable] = set(builder.given)
    order: list[Layer] = []
    waiting = list(items)

    def ready(item: Layer | HostOp) -> bool:
        if not isinstance(item, HostOp):
            return done_maps.issuperset(item.reads)
        values = ((source, builder.values[source]) for source in item.reads)
        return all(
            value.tensor in done_maps if isinstance(value, Ref) else not isinstance(value, Hosted) or source in done_values
            for source, value in values
        )

    while waiting:
        before = len(order)
        left: list[Layer | HostOp] = []
        for item in waiting:
            if not isinstance(item, HostOp) and ready(item):
                order.append(item)
                done_maps.update(item.writes)
            else:
                left.append(item)
        hosted: list[HostOp] = []
        waiting = []
        for item in left:
            if isinstance(item, HostOp) and ready(item):
                hosted.append(item)
                done_values.update(item.makes)
            else:
                waiting.append(item)
        if hosted:
            needed = {source for item in waiting if isinstance(item, HostOp) for source in item.reads}
            made = tuple(dict.fromkeys(value for op in hosted for value in op.makes))
            kept = tuple(value for value in made if value in needed and isinstance(builder.values[value], Hosted))
            order.append(host(Group(tuple(hosted), kept, tuple(value for value in made if value in ends.values))))
            done_maps.update(order[-1].writes)
        elif waiting and len(order) == before:
            raise ModelError(f"the model has a cycle at {waiting[0]}")
    return order


def _numbered(
    name: str,
    layers: list[Layer],
    draft: Draft,
    builder: GraphBuilder,
    ends: Ends,
    dtype: type,
    info: Mapping[str, str],
) -> LayerGraph:
    """Number the maps in the order in which they are written, and name weights by their content."""
    numbers: dict[int, int] = {}
    for port in ends.inputs:
        if port.tensor is not None:
            numbers.setdefault(port.tensor, len(numbers))
    for layer in layers:
        for number in layer.writes:
            numbers.setdefault(number, len(numbers))
    tensors: dict[int, Tensor] = {}
    for old, new in numbers.items():
        tensors[new] = builder.tensors[old]
    for layer in layers:
        if not isinstance(layer, Host):
            tensors[numbers[layer.writes[0]]] = replace(tensors[numbers[layer.writes[0]]], name=layer.name)
    weights: dict[str, Array] = {}
    hashed: dict[str, str] = {}

    def keep(key: str | None) -> str | None:
        if key is not None and key not in hashed:
            array: Array = np.ascontiguousarray(draft[key], dtype=dtype)
            hashed[key] = weight_key(array)
            weights.setdefault(hashed[key], array)
        return None if key is None else hashed[key]

    final = tuple(renumbered(layer, numbers, keep) for layer in layers)
    ordered = tuple(tensors[index] for index in range(len(tensors)))

    def moved(port: Port) -> Port:
        return port if port.tensor is None else replace(port, tensor=numbers[port.tensor])

    inputs, outputs = (tuple(map(moved, ports)) for ports in (ends.inputs, ends.outputs))
    return nest_concats(LayerGraph(name, ordered, final, inputs, outputs, weights, ends.structure, dict(info)))


def renumbered(layer: Layer, numbers: Mapping[int, int], keep: Callable[[str | None], str | None]) -> Layer:
    """The layer with its maps by their new numbers, and its weights by what ``keep`` returns of their keys."""
    changes: dict[str, Any] = {}
    for attribute in (each.name for each in fields(layer)):
        value = getattr(layer, attribute)
        if attribute in ("source", "target", "gate", "residual", "mean", "squares") and value is not None:
            changes[attribute] = numbers[value]
        elif attribute in ("sources", "reads", "writes"):
            changes[attribute] = tuple(numbers[number] for number in value)
        elif attribute in layer.weight_keys:
            changes[attribute] = keep(value)
    found = replace(layer, **changes)
    assert all(number < len(numbers) for number in found.reads)
    return found
