"""Host layers of an ONNX model: groups of nodes, each a model of its own, that ONNX Runtime computes on the master."""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from onnx import TypeProto, helper, numpy_helper

from fogconv.errors import ModelError, quoted
from fogconv.frontend.building.hosted import result_key
from fogconv.frontend.building.values import Const, Ref, Shape
from fogconv.frontend.grouping import Group
from fogconv.frontend.onnx.multiply_adds import multiply_adds
from fogconv.frontend.onnx.runtime import session_of
from fogconv.frontend.onnx.translate import Node, Translator
from fogconv.ir.arrays import Array
from fogconv.ir.layers import Host, Hosted


def host_layer(group: Group, translator: Translator) -> Host:
    """The Host layer of a group of hosted nodes. Raises ModelError where ONNX Runtime can't run it."""
    maps: dict[int, int] = {}
    shapes: dict[str, tuple[int, Shape]] = {}
    keys: dict[str, str | int] = {}
    constants = []
    inputs = []
    for name in map(str, group.reads):
        value = translator.values[name]
        if isinstance(value, Const):
            constants.append(numpy_helper.from_array(np.asarray(value.value), name))
            continue
        if isinstance(value, Ref):
            shapes[name] = (maps.setdefault(value.tensor, len(maps)), value.shape)
        else:
            keys[name] = translator.given.get(name, name)
        inputs.append(helper.make_value_info(name, translator.types.get(name, TypeProto())))
    made = [str(name) for op in group.nodes for name in op.makes]
    written = tuple(name for name in made if name in translator.written)
    kept = tuple(map(str, group.kept))
    results = tuple(map(str, group.results))
    graph = helper.make_graph(
        [op.node.proto for op in group.nodes],
        "host",
        inputs,
        [
            helper.make_value_info(name, translator.types.get(name, TypeProto()))
            for name in dict.fromkeys((*written, *kept, *results))
        ],
        constants,
    )
    whole = translator.model.proto
    model = helper.make_model(graph, opset_imports=whole.opset_import, ir_version=whole.ir_version)
    targets = tuple(translator.written[name] for name in written)
    call = HostCall(
        model.SerializeToString(),
        shapes,
        keys,
        kept,
        results,
        tuple((name, translator.tensors[translator.written[name]].shape) for name in written),
    )
    first = group.nodes[0].node
    try:
        _ = call.session
    except ModelError as error:
        raise ModelError(f"node {quoted(first.name)} ({first.op}) and what follows it: {error}") from error
    operations = tuple(_hosted(op.node, translator) for op in group.nodes)
    return Host(f"host:{translator.unique(first.name)}", tuple(maps), targets, call, operations)


def _hosted(node: Node, translator: Translator) -> Hosted:
    why = translator.why_hosted(node.op in translator.rules, node.inputs)
    return Hosted(node.op, node.name, why, multiply_adds(node, translator.shape))


@dataclass(frozen=True)
class HostCall:
    """The function of a Host layer.

    ``model`` is ONNX. ``shapes`` gives, for an input that is a map, the number of its argument and the shape that the
    nodes need; the other ``inputs`` come from ``values``, by these keys. There ``kept`` go for later calls, and ``results``
    as outputs of the model; ``written`` are returned as (N, C, H, W).
    """

    model: bytes
    shapes: dict[str, tuple[int, Shape]]
    inputs: dict[str, str | int]
    kept: tuple[str, ...]
    results: tuple[str, ...]
    written: tuple[tuple[str, Shape], ...]

    @cached_property
    def session(self) -> Any:
        # Threads that spin would take the cores, or a quota, from the kernels that come next.
        return session_of(self.model, spinning=False)

    def __call__(self, values: MutableMapping[str | int, Any], *maps: Array) -> list[Array]:
        feeds = {name: np.ascontiguousarray(maps[index]).reshape(shape) for name, (index, shape) in self.shapes.items()}
        feeds |= {name: values[key] for name, key in self.inputs.items()}
        names = tuple(dict.fromkeys((*(name for name, _ in self.written), *self.kept, *self.results)))
        found = dict(zip(names, self.session.run(names, feeds), strict=True))
        values.update((name, found[name]) for name in self.kept)
        values.update((result_key(name), found[name]) for name in self.results)
        return [np.ascontiguousarray(found[name].reshape(shape)) for name, shape in self.written]
