"""Translation: the nodes of an ONNX graph, one after the other, into layers and host operations.

Values are named by ONNX's own names. What is computed from constants alone, shapes among them, is folded; so a graph that
computes a reshape's target from its input's size needs no rule for that. `fogconv.frontend.onnx.rules` says which operators
become layers; the others are hosted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, TypeProto, helper, numpy_helper, shape_inference

from fogconv.errors import ModelError, quoted
from fogconv.frontend.building.graph_builder import GraphBuilder
from fogconv.frontend.building.hosted import HostOp
from fogconv.frontend.building.values import Const, Hosted, Last, Many, Padded, Ref, Shape, Value, as_sides
from fogconv.frontend.fusion import AnyArray
from fogconv.frontend.onnx.model_file import ModelFile, free_names
from fogconv.frontend.quantized.integers import Dequantized, quantized
from fogconv.ir.graph import Port

SMALL = 4096
"""Elements of a constant whose values may decide on a shape."""
RANDOM = ("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli")


@dataclass(frozen=True)
class Node:
    """A node of the graph. Optional inputs that are absent are ''."""

    proto: NodeProto

    @property
    def op(self) -> str:
        return str(self.proto.op_type)

    @cached_property
    def inputs(self) -> Sequence[str]:
        return tuple(self.proto.input)

    @cached_property
    def outputs(self) -> Sequence[str]:
        return tuple(self.proto.output)

    @property
    def name(self) -> str:
        return str(self.proto.name or next(iter(self.proto.output), self.op)).strip("/")

    @cached_property
    def attributes(self) -> Mapping[str, Any]:
        return {each.name: helper.get_attribute_value(each) for each in self.proto.attribute}

    def input(self, index: int) -> str:
        """An input's name; '' where it is absent."""
        return self.inputs[index] if index < len(self.inputs) else ""

    def get(self, name: str, default: Any) -> Any:
        value = self.attributes.get(name, default)
        return value.decode() if isinstance(value, bytes) else value


Rule = Callable[["Translator", Node], Value | None]


@dataclass
class Translator(GraphBuilder):
    """Walks a graph in order. ``types`` has the values' types, with their shapes where these are known; ``on_bytes`` makes
    of a rule one for maps of bytes; ``dequantized`` are the constants that were 8-bit ones."""

    rules: Mapping[str, Rule]
    model: ModelFile
    on_bytes: Callable[[Rule | None, Translator, Node], Value | None]
    types: dict[str, TypeProto] = field(default_factory=dict, kw_only=True)
    maker: dict[str, Node] = field(default_factory=dict, kw_only=True)
    readers: dict[str, list[Node]] = field(default_factory=dict, kw_only=True)
    entries: list[Port] = field(default_factory=list, kw_only=True)
    dequantized: Dequantized = field(default_factory=Dequantized, kw_only=True)

    def walk(self) -> None:
        """The whole graph."""
        graph = self.model.proto.graph
        nodes = [Node(proto) for proto in graph.node]
        for node in nodes:
            for name in free_names(node.proto):
                self.readers.setdefault(name, []).append(node)
        for tensor in graph.initializer:
            self._hold(tensor.name, Const(numpy_helper.to_array(tensor)))
        for value in (*graph.value_info, *graph.output):  # what the file says, where nothing better is found
            self.types[value.name] = value.type
        for number, entry in enumerate(self.model.inputs):
            self.types[entry.name] = helper.make_tensor_type_proto(entry.kind, entry.shape)
            is_map, dtype = self.could_be_map(entry.name, flat=number == 0), str(helper.tensor_dtype_to_np_dtype(entry.kind))
            self.entries.append(self.take(entry.name, number, entry.name, entry.shape, dtype, is_map=is_map))
        for node in nodes:
            self._visit(node)

    # Values

    def const(self, name: str) -> AnyArray | None:
        value = self.values.get(name)
        return value.value if isinstance(value, Const) else None

    def shape(self, name: str) -> Shape | None:
        """A value's shape, where it is known."""
        value = self.values.get(name)
        if isinstance(value, Ref):
            return value.shape
        kind = self.types.get(name)
        if kind is None or not kind.tensor_type.HasField("shape"):
            return None
        dims = [dim.dim_value if dim.HasField("dim_value") else -1 for dim in kind.tensor_type.shape.dim]
        return None if -1 in dims else tuple(dims)

    def is_float(self, name: str) -> bool:
        kind = self.types.get(name)
        return kind is not None and kind.tensor_type.elem_type == TensorProto.FLOAT

    def could_be_map(self, name: str, *, flat: bool = False) -> bool:
        """Whether it is (N, C, H, W); with ``flat`` also (N, C, L)."""
        shape = self.shape(name)
        return (
            shape is not None
            and len(shape) in ((3, 4) if flat else (4,))
            and shape[0] == self.batch
            and 0 not in shape
            and self.is_float(name)
        )

    def as_map(self, name: str, *, flat: bool = False) -> int | None:
        """The number of a map that holds a 4-D value; hosted values and reshaped maps are written as a map for it. With
        ``flat`` 3-D values (N, C, L) are maps of one row."""
        value = self.values.get(name)
        shape = self.shape(name)
        if shape is None or not isinstance(value, Ref | Hosted) or not self.could_be_map(name, flat=flat):
            return None
        if isinstance(value, Ref) and self.tensors[value.tensor].shape == (self.batch, *as_sides(shape)):
            return value.tensor
        if isinstance(value, Ref) and name not in self.written:
            if name not in self.maker:
                return None
            self._wait(self.maker[name])  # for example a reshape that moves elements between channels
        return self.write(name, shape)

    def write(self, name: str, shape: Shape) -> int:
        """Write a hosted value as a map of this shape."""
        if name not in self.written:
            self.written[name] = self.map_of(name, *as_sides(shape))
        return self.written[name]

    # Nodes

    def _visit(self, node: Node) -> None:
        self._infer(node)
        self.maker.update(dict.fromkeys(node.outputs, node))
        for name in node.inputs:
            if name and name not in self.values:
                raise ModelError(f"node {quoted(node.name)} ({node.op}) reads {quoted(name)}, which nothing before it makes")
        folded = self._folded(node)
        if folded is not None:
            for name, array in zip(node.outputs, folded, strict=False):
                self._hold(name, Const(array))
            return
        rule = self.rules.get(node.op) if node.proto.domain in ("", "ai.onnx") else None
        if self._reads_bytes(node):
            rule = partial(self.on_bytes, rule)
        value = rule(self, node) if rule else None
        if value is None or not self._is_as_inferred(node, value):
            self.host(node)
        elif isinstance(value, Many):
            for name, each in zip(node.outputs, value.values, strict=False):
                if name and each is not None:
                    self._hold(name, each)
        else:
            self._hold(node.outputs[0], value)

    def _reads_bytes(self, node: Node) -> bool:
        """Whether an operator that knows nothing of it reads a map of bytes."""
        refs = (self.elements(name) for name in node.inputs)
        return node.op not in ("DequantizeLinear", "QLinearConv") and any(
            ref is not None and self.tensors[ref.tensor].precision.quantized for ref in refs
        )

    def host(self, node: Node) -> None:
        """Let ONNX Runtime compute this node on the master."""
        for name in free_names(node.proto):
            self.unpad(name)
        for name in node.outputs:
            if name:
                self.values[name] = Hosted()
        self._wait(node)

    def unpad(self, name: str) -> None:
        """Let ONNX Runtime make a padded map where no conv pads it."""
        if isinstance(self.values.get(name), Padded | Last):
            self.host(self.maker[name])

    def _wait(self, node: Node) -> None:
        reads = tuple(dict.fromkeys(free_names(node.proto)))
        self.items.append(HostOp(node, reads, tuple(name for name in node.outputs if name)))

    def _hold(self, name: str, value: Value) -> None:
        self.values[name] = value
        if isinstance(value, Ref):
            self.types[name] = helper.make_tensor_type_proto(TensorProto.FLOAT, value.shape)
        elif isinstance(value, Const):
            kind = helper.np_dtype_to_tensor_dtype(value.value.dtype)
            self.types[name] = helper.make_tensor_type_proto(kind, value.value.shape)

    def _is_as_inferred(self, node: Node, value: Value) -> bool:
        """Whether a layer's result has the shape that ONNX says: runtimes and torch round some windows differently."""
        found = self.shape(node.outputs[0]) if isinstance(value, Ref) else None
        return found is None or not isinstance(value, Ref) or found == value.shape

    def _folded(self, node: Node) -> Sequence[AnyArray] | None:
        """The node's results where they don't depend on the model's input."""
        if node.op in ("Shape", "Size") and (shape := self.shape(node.inputs[0])) is not None:
            if node.op == "Size":
                return [np.array(np.prod(shape, dtype=np.int64))]
            return [np.array(shape[node.get("start", 0) : node.attributes.get("end")], np.int64)]
        if (constant := _constant(node)) is not None:
            return [constant]
        reads = list(free_names(node.proto))
        if node.op in RANDOM or not all(isinstance(self.values.get(name), Const) for name in reads):
            return None
        if any(attribute.HasField("g") or attribute.graphs for attribute in node.proto.attribute):
            return None
        if node.op in ("QuantizeLinear", "DequantizeLinear") and self.const(node.input(0)) is not None:
            return [self._converted(node)]
        # It takes a twentieth of a second to import.
        from onnx.reference import ReferenceEvaluator

        bare = helper.make_graph(
            [node.proto],
            "constants",
            [helper.make_value_info(name, self.types[name]) for name in reads],
            [helper.make_value_info(name, TypeProto()) for name in node.outputs if name],
        )
        model = helper.make_model(bare, opset_imports=self.model.proto.opset_import)
        try:
            results = ReferenceEvaluator(model).run(None, {name: self.const(name) for name in reads})
        except Exception as error:  # the evaluator raises whatever numpy raises
            at = f"node {quoted(node.name)} ({node.op})"
            raise ModelError(f"{at} can't be computed from its constants: {error}") from error
        return [np.asarray(result) for result in results]

    def _converted(self, node: Node) -> AnyArray:
        """A constant that is quantised, or was. (ONNX's evaluator has these for newer opsets only.)"""
        values, scales, zeros = (self.const(node.input(at)) for at in range(3))
        assert values is not None and scales is not None
        if zeros is None:
            zeros = np.zeros(scales.shape, values.dtype if node.op == "DequantizeLinear" else np.uint8)
        axis = int(node.get("axis", 1)) % max(1, values.ndim)
        if node.op == "QuantizeLinear":
            return quantized(values, scales, zeros, axis)
        return self.dequantized.make(values, scales, zeros, axis)

    def _infer(self, node: Node) -> None:
        """The types of a node's results, where ONNX's own inference finds them."""
        try:
            schema = onnx.defs.get_schema(node.op, self.opset(node), node.proto.domain)
            small = {
                name: numpy_helper.from_array(array, name)
                for name in node.inputs
                if (array := self.const(name)) is not None and array.size <= SMALL
            }
            types = {name: self.types[name] for name in node.inputs if name in self.types}
            found = shape_inference.infer_node_outputs(
                schema, node.proto, types, small, opset_imports=list(self.model.proto.opset_import)
            )
        except Exception:  # what can't be inferred is hosted
            return
        self.types |= {name: kind for name, kind in found.items() if _sized(kind) or name not in self.types}

    def opset(self, node: Node) -> int:
        """The version of the operators that a node's is one of."""
        domain = node.proto.domain
        return next((each.version for each in self.model.proto.opset_import if each.domain == domain), 1)


def _sized(kind: TypeProto) -> bool:
    return bool(kind.HasField("tensor_type") and kind.tensor_type.HasField("shape"))


def _constant(node: Node) -> AnyArray | None:
    """The array of a node that is one; None for other nodes. (An evaluator for each would take longer than all else that is
    read from a file: Paddle's exports have hundreds of them.)"""
    if node.op != "Constant" or node.proto.domain not in ("", "ai.onnx") or "value" not in node.attributes:
        return None
    return np.asarray(numpy_helper.to_array(node.attributes["value"]))
