"""HostCall: a run of torch operations on the master, between maps that come in and maps that go out."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import fx

from fogconv.layers import Array


@dataclass(frozen=True)
class HostCall:
    """What a Host layer calls.

    ``shapes`` says for a node that is a map which argument it is and in what shape the operations want it; ``constants``
    holds tensors; ``outer`` are the nodes that come from outside, ``kept`` those that go into ``values`` for
    later calls, ``written`` those that are returned, as (N, C, H, W).
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
    """The caller may reuse its maps' memory after the call: what is kept must not be a view of it."""
    if isinstance(value, torch.Tensor):
        return value.clone() if value.untyped_storage().data_ptr() in borrowed else value
    if isinstance(value, tuple | list):
        return type(value)(_own(item, borrowed) for item in value)
    return value


def functional(target: Any) -> Any:
    """relu for relu_: an operation that leaves its arguments alone. None where there is none."""
    schema = getattr(target, "_schema", None)
    if schema is None or not schema.is_mutable:
        return target
    name = str(schema.name)
    if not name.startswith("aten::") or not name.endswith("_"):
        return None
    packet = getattr(torch.ops.aten, name.removeprefix("aten::").removesuffix("_"), None)
    return getattr(packet, target._overloadname, None)
