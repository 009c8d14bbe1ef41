"""Translation: the nodes of an exported torch program, one after the other, into layers and host operations.

`fogconv.frontend.torch.rules` says which operations become layers. Operations without a rule are hosted, and neighbouring
hosted operations become one Host layer (`fogconv.frontend.torch.host_ops`).
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import fx

from fogconv.frontend.building.graph_builder import GraphBuilder
from fogconv.frontend.building.hosted import HostOp
from fogconv.frontend.building.values import Const, Hosted, Last, Many, Padded, Ref, Shape, Value, as_sides
from fogconv.frontend.fusion import AnyArray
from fogconv.frontend.quantized.integers import Dequantized

Args = Mapping[str, Any]
"""A node's arguments by name."""

Rule = Callable[["Translator", fx.Node, Args], Value | None]


def op_name(node: fx.Node) -> str:
    """'conv2d', 'relu' (for relu_ as well, see `fogconv.frontend.torch.host_ops.functional`), '' for other nodes than
    ATen operations."""
    schema = getattr(node.target, "_schema", None)
    if node.op != "call_function" or schema is None:
        return ""
    name = str(schema.name).removeprefix("aten::")
    return name.removesuffix("_") if schema.is_mutable else name


def bind(node: fx.Node) -> dict[str, Any]:
    """The node's arguments by the names of its schema, defaults filled in."""
    schema = node.target._schema  # type: ignore[union-attr]
    bound = {}
    for index, argument in enumerate(schema.arguments):
        if index < len(node.args) and not argument.kwarg_only:
            bound[argument.name] = node.args[index]
        else:
            bound[argument.name] = node.kwargs.get(argument.name, argument.default_value)
    return bound


def pair(value: Any, default: tuple[int, int] | None = None) -> tuple[int, int]:
    """torch's int-or-list, an empty list meaning the default."""
    if isinstance(value, int):
        return (value, value)
    if not value and default is not None:
        return default
    return (int(value[0]), int(value[-1]))


def shape_of(node: fx.Node) -> Shape:
    return tuple(int(size) for size in node.meta["val"].shape)


def layer_name(node: fx.Node) -> str:
    """The module that the node comes from ('layer1.0.conv2'); with the operation if called in a forward ('layer1.0.add')."""
    stack = node.meta.get("nn_module_stack") or {}
    path, kind = next(reversed(stack.values())) if stack else ("", "")
    if not path:
        return node.name
    built_in = str(kind).startswith("torch.nn.modules.") and ".container." not in str(kind)
    return str(path) if built_in else f"{path}.{op_name(node) or node.name}"


DEQUANTIZE = "quantized_decomposed::dequantize_per_"
"""What the operations' names begin with that make numbers of bytes."""
_SHAPE_ONLY = {"new_zeros": 0.0, "new_ones": 1.0, "zeros_like": 0.0, "ones_like": 1.0}
"""Operations that look at their argument's shape and type only; the fill value."""


@dataclass
class Translator(GraphBuilder):
    """Walks a program in order. ``dtype`` is the maps' type (the model's). Values are named by their nodes. ``dequantized``
    are the constants that were 8-bit ones."""

    rules: Mapping[str, Rule]
    dtype: torch.dtype
    dequantized: Dequantized = field(default_factory=Dequantized, kw_only=True)

    def const(self, argument: object) -> torch.Tensor | None:
        value = self.values.get(argument) if isinstance(argument, fx.Node) else None
        return value.value if isinstance(value, Const) and isinstance(value.value, torch.Tensor) else None

    def as_map(self, argument: object, *, flat: bool = False) -> int | None:
        """The number of a map that holds a 4-D value; hosted values and reshaped maps are written as a map for it. With
        ``flat`` 3-D values (N, C, L) are maps of one row."""
        if not isinstance(argument, fx.Node) or not self.could_be_map(argument, flat=flat):
            return None
        value, sides = self.values[argument], as_sides(shape_of(argument))
        if isinstance(value, Ref) and self.tensors[value.tensor].shape == (self.batch, *sides):
            return value.tensor
        if not isinstance(value, Ref | Hosted):
            return None
        if isinstance(value, Ref) and argument not in self.written:
            if argument.op != "call_function":
                return None
            self.items.append(_hosted(argument))  # for example a reshape that moves elements between channels
        return self.write(argument, shape_of(argument))

    def could_be_map(self, node: fx.Node, *, flat: bool = False) -> bool:
        """Whether it is (N, C, H, W); with ``flat`` also (N, C, L)."""
        value = node.meta.get("val")
        return (
            isinstance(value, torch.Tensor)
            and value.ndim in ((3, 4) if flat else (4,))
            and value.shape[0] == self.batch
            and value.dtype == self.dtype
        )

    def write(self, node: fx.Node, shape: Shape) -> int:
        """Write a hosted node's result as a map of this shape."""
        if node not in self.written:
            self.written[node] = self.map_of(node.name, *as_sides(shape))
        return self.written[node]

    def host(self, node: fx.Node) -> Hosted:
        """Let torch compute this node on the master."""
        for source in node.all_input_nodes:
            if isinstance(self.values[source], Padded | Last | Many):
                self.host(source)
        self.values[node] = hosted = Hosted()
        self.items.append(_hosted(node))
        return hosted

    def visit(self, node: fx.Node) -> None:
        """One call_function node. Constants are folded; otherwise a rule applies, or else the host computes it."""
        folded = self._fold(node)
        if folded is not None:
            self.values[node] = folded
            return
        if node.target is operator.getitem:
            source = self.values[node.args[0]]
            if isinstance(source, Many) and isinstance(picked := source.values[int(node.args[1])], Ref):  # type: ignore[arg-type]
                self.values[node] = picked
                return
        rule = self.rules.get(op_name(node))
        value = rule(self, node, bind(node)) if rule else None
        if value is None:
            self.host(node)
        else:
            self.values[node] = value

    def _fold(self, node: fx.Node) -> Const | None:
        tags = getattr(node.target, "tags", ())
        if torch.Tag.nondeterministic_seeded in tags:
            return None
        if op_name(node) in _SHAPE_ONLY:
            fake = node.meta["val"]
            return Const(torch.full(shape_of(node), _SHAPE_ONLY[op_name(node)], dtype=fake.dtype))
        sources = [self.values[source] for source in node.all_input_nodes]
        if not all(isinstance(source, Const) for source in sources):
            return None
        lookup = {source: value.value for source, value in self.values.items() if isinstance(value, Const)}
        args = fx.node.map_arg(node.args, lambda source: lookup[source])
        kwargs = fx.node.map_arg(node.kwargs, lambda source: lookup[source])
        if op_name(node).startswith(DEQUANTIZE):
            return self._dequantized(node, args, kwargs)
        with torch.no_grad():
            return Const(node.target(*args, **kwargs))  # type: ignore[operator]

    def _dequantized(self, node: fx.Node, args: Any, kwargs: Any) -> Const:
        """A constant that was one of bytes, which are remembered."""
        schema = node.target._schema  # type: ignore[union-attr]
        known = dict(zip((each.name for each in schema.arguments), args, strict=False)) | kwargs
        scales = known["scales" if "scales" in known else "scale"]
        zeros = known["zero_points" if "scales" in known else "zero_point"]
        scale, zero = (np.atleast_1d(np.asarray(0 if each is None else each)) for each in (scales, zeros))
        reals = self.dequantized.make(known["input"].numpy(), scale, zero, int(known.get("axis", 0)))
        return Const(torch.from_numpy(reals))


def _hosted(node: fx.Node) -> HostOp:
    return HostOp(node, tuple(node.all_input_nodes), (node,))


def as_numpy(value: torch.Tensor) -> AnyArray:
    """A constant as float64, for arithmetic on scales and shifts."""
    array: AnyArray = value.detach().to(torch.float64).numpy()
    return np.atleast_1d(array)


def weights(value: torch.Tensor) -> AnyArray:
    """A constant in its own type, for a layer's weights."""
    array: AnyArray = value.detach().numpy()
    return array
