"""Grouping: drop operations that the output does not need, and merge neighbouring hosted operations into Host layers."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import fx

from fogconv.errors import ModelError
from fogconv.frontend.torch.translate import Const, Hosted, HostOp, Ref, Shape, Translator, op_name
from fogconv.ir.arrays import Array
from fogconv.ir.graph import Host, Layer


def live(items: Sequence[Layer | HostOp], translator: Translator, output: int) -> list[Layer | HostOp]:
    """The items that the output depends on."""
    wanted = {output}
    nodes: set[fx.Node] = set()
    kept: list[Layer | HostOp] = []
    for item in reversed(items):
        if isinstance(item, HostOp):
            if item.node not in nodes and translator.written.get(item.node) not in wanted:
                continue
            for source in item.node.all_input_nodes:
                value = translator.values[source]
                if isinstance(value, Ref):
                    wanted.add(value.tensor)
                elif isinstance(value, Hosted):
                    nodes.add(source)
        elif not wanted.isdisjoint(item.writes):
            wanted.update(item.reads)
        else:
            continue
        kept.append(item)
    return kept[::-1]


def group(items: Sequence[Layer | HostOp], translator: Translator, inputs: Sequence[int]) -> list[Layer]:
    """Neighbouring hosted operations as one Host layer, never in a cycle.

    In turns, all layers that can run are taken, then all hosted operations that can: the groups of hosted operations are
    then as large as possible, and without hosted operations the order does not change.
    """
    done_maps = set(inputs)
    done_nodes: set[fx.Node] = set()
    order: list[Layer] = []
    waiting = list(items)

    def ready(item: Layer | HostOp) -> bool:
        if not isinstance(item, HostOp):
            return done_maps.issuperset(item.reads)
        values = ((source, translator.values[source]) for source in item.node.all_input_nodes)
        return all(
            value.tensor in done_maps if isinstance(value, Ref) else not isinstance(value, Hosted) or source in done_nodes
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
        hosted: list[fx.Node] = []
        waiting = []
        for item in left:
            if isinstance(item, HostOp) and ready(item):
                hosted.append(item.node)
                done_nodes.add(item.node)
            else:
                waiting.append(item)
        if hosted:
            order.append(_host_layer(hosted, translator, waiting))
            done_maps.update(order[-1].writes)
        elif waiting and len(order) == before:
            raise ModelError(f"the exported program has a cycle at {waiting[0]}")
    return order


def _host_layer(nodes: Sequence[fx.Node], translator: Translator, later: Sequence[Layer | HostOp]) -> Host:
    inside = set(nodes)
    maps: dict[int, int] = {}
    shapes: dict[fx.Node, tuple[int, Shape]] = {}
    constants: dict[fx.Node, Any] = {}
    for node in nodes:
        for source in set(node.all_input_nodes) - inside:
            match translator.values[source]:
                case Ref(tensor, shape):
                    shapes[source] = (maps.setdefault(tensor, len(maps)), shape)
                case Const(value):
                    constants[source] = value
    needed = {source for item in later if isinstance(item, HostOp) for source in item.node.all_input_nodes}
    kept = tuple(node for node in nodes if node in needed and isinstance(translator.values[node], Hosted))
    written = [node for node in nodes if node in translator.written]
    targets = tuple(translator.written[node] for node in written)
    call = HostCall(
        tuple(nodes),
        shapes,
        constants,
        frozenset(source for node in nodes for source in node.all_input_nodes if source not in inside),
        kept,
        tuple((node, translator.tensors[translator.written[node]].shape) for node in written),
    )
    ops = tuple(sorted({op_name(node) or getattr(node.target, "__name__", str(node.target)) for node in nodes}))
    name = translator.name(nodes[0])
    return Host(f"host:{name}", tuple(maps), targets, call, ops)


@dataclass(frozen=True)
class HostCall:
    """The function of a Host layer.

    ``shapes`` gives, for a node that is a map, the number of its argument and the shape that the operations need;
    ``constants`` holds tensors; ``outer`` are the nodes that come from outside, ``kept`` those that go into ``values``
    for later calls, ``written`` those that are returned, as (N, C, H, W).
    """

    nodes: tuple[fx.Node, ...]
    shapes: Mapping[fx.Node, tuple[int, tuple[int, ...]]]
    constants: Mapping[fx.Node, Any]
    outer: frozenset[fx.Node]
    kept: tuple[fx.Node, ...]
    written: tuple[tuple[fx.Node, tuple[int, int, int, int]], ...]

    @torch.inference_mode()
    def __call__(self, values: MutableMapping[str, Any], *maps: Array) -> list[Array]:
        env: dict[fx.Node, Any] = {}
        for node in self.outer:
            if node in self.shapes:
                index, shape = self.shapes[node]
                env[node] = torch.from_numpy(np.ascontiguousarray(maps[index])).reshape(shape)
            elif node in self.constants:
                env[node] = self.constants[node]
            else:
                env[node] = values[node.name]
        for node in self.nodes:
            args = fx.node.map_arg(node.args, env.__getitem__)
            kwargs = fx.node.map_arg(node.kwargs, env.__getitem__)
            env[node] = functional(node.target)(*args, **kwargs)
        borrowed = {env[node].untyped_storage().data_ptr() for node in self.shapes if node in env}
        for node in self.kept:
            values[node.name] = _own(env[node], borrowed)
        return [np.ascontiguousarray(_own(env[node].reshape(shape), borrowed).numpy()) for node, shape in self.written]


def _own(value: Any, borrowed: set[int]) -> Any:
    """A copy of a kept value: the caller may reuse its maps' memory after the call."""
    if isinstance(value, torch.Tensor):
        return value.clone() if value.untyped_storage().data_ptr() in borrowed else value
    if isinstance(value, tuple | list):
        return type(value)(_own(item, borrowed) for item in value)
    return value


def functional(target: Any) -> Any:
    """relu for relu_: an operation that does not change its arguments. None where there is none."""
    schema = getattr(target, "_schema", None)
    if schema is None or not schema.is_mutable:
        return target
    name = str(schema.name)
    if not name.startswith("aten::") or not name.endswith("_"):
        return None
    packet = getattr(torch.ops.aten, name.removeprefix("aten::").removesuffix("_"), None)
    return getattr(packet, target._overloadname, None)
