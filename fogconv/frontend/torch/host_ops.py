"""Host layers of a torch program: groups of operations that torch computes on the master."""

from __future__ import annotations

import operator
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import fx

from fogconv.frontend.building.hosted import result_key
from fogconv.frontend.building.values import Const, Ref, Shape
from fogconv.frontend.grouping import Group
from fogconv.frontend.torch.multiply_adds import multiply_adds
from fogconv.frontend.torch.translate import Translator, layer_name, op_name
from fogconv.ir.arrays import Array
from fogconv.ir.layers import Host, Hosted


def host_layer(group: Group, translator: Translator) -> Host:
    """The Host layer of a group of hosted nodes."""
    nodes = tuple(op.node for op in group.nodes)
    maps: dict[int, int] = {}
    shapes: dict[fx.Node, tuple[int, Shape]] = {}
    constants: dict[fx.Node, Any] = {}
    shared = [source for source in group.reads if isinstance(source, fx.Node)]
    for source in shared:
        match translator.values[source]:
            case Ref(tensor, shape):
                shapes[source] = (maps.setdefault(tensor, len(maps)), shape)
            case Const(value):
                constants[source] = value
    written = [node for node in nodes if node in translator.written]
    targets = tuple(translator.written[node] for node in written)
    call = HostCall(
        nodes,
        shapes,
        constants,
        frozenset(source for node in nodes for source in node.all_input_nodes if source not in set(nodes)),
        {node: translator.given[node] for node in shared if node in translator.given},
        tuple(node for node in nodes if node in group.kept),
        tuple(node for node in nodes if node in group.results),
        tuple((node, translator.tensors[translator.written[node]].shape) for node in written),
    )
    operations = tuple(_hosted(node, translator) for node in nodes if node.target is not operator.getitem)
    return Host(f"host:{translator.unique(layer_name(nodes[0]))}", tuple(maps), targets, call, operations)


def _hosted(node: fx.Node, translator: Translator) -> Hosted:
    name = op_name(node) or getattr(node.target, "__name__", str(node.target))
    why = translator.why_hosted(name in translator.rules, node.all_input_nodes)
    return Hosted(name, layer_name(node), why, multiply_adds(node))


@dataclass(frozen=True)
class HostCall:
    """The function of a Host layer.

    ``shapes`` gives, for a node that is a map, the number of its argument and the shape that the operations need;
    ``constants`` holds tensors; ``outer`` are the nodes that come from outside, ``given`` those of them that are inputs of
    the model, with their numbers; ``kept`` are those that go into ``values`` for later calls, ``results`` those that go
    there as outputs of the model, and ``written`` those that are returned, as (N, C, H, W).
    """

    nodes: tuple[fx.Node, ...]
    shapes: Mapping[fx.Node, tuple[int, tuple[int, ...]]]
    constants: Mapping[fx.Node, Any]
    outer: frozenset[fx.Node]
    given: Mapping[fx.Node, int]
    kept: tuple[fx.Node, ...]
    results: tuple[fx.Node, ...]
    written: tuple[tuple[fx.Node, tuple[int, int, int, int]], ...]

    @torch.inference_mode()
    def __call__(self, values: MutableMapping[str | int, Any], *maps: Array) -> list[Array]:
        env: dict[fx.Node, Any] = {}
        for node in self.outer:
            if node in self.shapes:
                index, shape = self.shapes[node]
                env[node] = torch.from_numpy(np.ascontiguousarray(maps[index])).reshape(shape)
            elif node in self.constants:
                env[node] = self.constants[node]
            elif node in self.given:
                env[node] = torch.from_numpy(values[self.given[node]])
            else:
                env[node] = values[node.name]
        for node in self.nodes:
            args = fx.node.map_arg(node.args, env.__getitem__)
            kwargs = fx.node.map_arg(node.kwargs, env.__getitem__)
            env[node] = functional(node.target)(*args, **kwargs)
        borrowed = {env[node].untyped_storage().data_ptr() for node in self.shapes if node in env}
        for node in self.kept:
            values[node.name] = _own(env[node], borrowed)
        for node in self.results:
            values[result_key(node)] = np.array(env[node].numpy())
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
