"""write: a graph as an ONNX model, quantised ones in QDQ form, which ONNX Runtime and others read.

Conversions become QuantizeLinear and DequantizeLinear, and the weights of convs on bytes int8 constants with a
DequantizeLinear of one scale per channel. A fully connected layer is written as the conv that it is here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from fogconv.errors import ModelError, quoted
from fogconv.frontend.onnx.model_file import WEIGHTS
from fogconv.frontend.quantized.integers import Integers
from fogconv.ir.graph import LayerGraph, Port
from fogconv.ir.layers import (
    Add,
    Affine,
    Concat,
    Conv,
    Convert,
    Elementwise,
    Gate,
    GlobalPool,
    Layer,
    Pool,
    Shuffle,
    Slice,
)
from fogconv.zoo.card import seeded

OPSET = 17
IR_VERSION = 8

OPERATORS = {
    "relu": "Relu",
    "sigmoid": "Sigmoid",
    "tanh": "Tanh",
    "hardswish": "HardSwish",
    "leaky_relu": "LeakyRelu",
    "add": "Add",
    "multiply": "Mul",
    "maximum": "Max",
    "minimum": "Min",
}
"""Elementwise operators that ONNX has, too."""
ATTRIBUTES = {"leaky_relu": ("alpha",)}


def model_of(graph: LayerGraph, integers: Mapping[str, Integers], weights_origin: str = "") -> onnx.ModelProto:
    """``integers`` has the weights of convs on bytes, by the layer's name; where ``weights_origin`` is that of seeded
    weights, the file says so. Raises ModelError for a layer that has no form in
    ONNX here."""
    model = _Writer(graph, integers).model()
    if origin := seeded(weights_origin):
        helper.set_model_props(model, {WEIGHTS: origin})
    return model


def write(graph: LayerGraph, integers: Mapping[str, Integers], path: Path, weights_origin: str = "") -> None:
    """Raises ModelError as `model_of` does, OSError where the file can't be written."""
    model = model_of(graph, integers, weights_origin)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())


class _Writer:
    def __init__(self, graph: LayerGraph, integers: Mapping[str, Integers]) -> None:
        self.graph = graph
        self.integers = integers
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}
        self.names: dict[int, str] = {}
        self.last = 0

    def model(self) -> onnx.ModelProto:
        inputs = [self.input(port) for port in self.graph.inputs]
        for layer in self.graph.layers:
            self.layer(layer)
        outputs = [self.output(port) for port in self.graph.outputs]
        graph = helper.make_graph(self.nodes, self.graph.name, inputs, outputs, list(self.constants.values()))
        opsets = [helper.make_opsetid("", OPSET)]
        return helper.make_model(graph, producer_name="fogconv", opset_imports=opsets, ir_version=IR_VERSION)

    def input(self, port: Port) -> onnx.ValueInfoProto:
        if port.tensor is None or port.shape != self.graph.tensors[port.tensor].shape:
            raise ModelError(f"{self.graph.name}: its input {quoted(port.name)} is no map (N, C, H, W)")
        self.names[port.tensor] = port.name
        return helper.make_tensor_value_info(port.name, TensorProto.FLOAT, port.shape)

    def output(self, port: Port) -> onnx.ValueInfoProto:
        if port.tensor is None or port.shape is None:
            raise ModelError(f"{self.graph.name}: its output {quoted(port.name)} is made by operations of its framework")
        shape = self.constant("shape", np.array(port.shape, np.int64))
        name = port.name if port.name not in self.names.values() else f"{port.name}.output"
        self.nodes.append(helper.make_node("Reshape", [self.names[port.tensor], shape], [name], name=f"{name}.reshape"))
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, port.shape)

    def constant(self, name: str, value: NDArray[Any]) -> str:
        self.last += 1
        unique = f"{name}.{self.last}"
        self.constants[unique] = numpy_helper.from_array(np.asarray(value, order="C"), unique)
        return unique

    def scalar(self, name: str, value: float) -> str:
        return self.constant(name, np.array(value, np.float32))

    def node(self, op: str, name: str, inputs: list[str], **attributes: Any) -> str:
        self.last += 1
        out = f"{name}.{self.last}"
        self.nodes.append(helper.make_node(op, inputs, [out], name=f"{name}.{op}.{self.last}", **attributes))
        return out

    def weight(self, key: str) -> NDArray[Any]:
        return np.asarray(self.graph.weights[key])

    def layer(self, layer: Layer) -> None:
        reads = [self.names[number] for number in layer.reads]
        makers: Mapping[type[Any], Callable[..., str]] = {
            Conv: self.conv,
            Convert: self.convert,
            Pool: self.pool,
            GlobalPool: lambda each, x: self.node("GlobalAveragePool", each.name, [x]),
            Add: self.add,
            Affine: self.affine,
            Elementwise: self.elementwise,
            Gate: lambda each, x, gate: self.node("Mul", each.name, [x, gate]),
            Concat: lambda each, *xs: self.node("Concat", each.name, list(xs), axis=1),
            Slice: self.slice,
            Shuffle: self.shuffle,
        }
        make = makers.get(type(layer))
        if make is None:
            raise ModelError(f"{self.graph.name}: {quoted(layer.name)} ({layer.kind}) has no form in ONNX that is written")
        self.names[layer.writes[0]] = make(layer, *reads)

    def conv(self, layer: Conv, x: str, residual: str | None = None) -> str:
        spec, found = layer.spec, self.integers.get(layer.name)
        bias = None if layer.bias is None else self.weight(layer.bias)
        if found is None:
            inputs = [x, self.constant(f"{layer.name}.weight", self.weight(layer.weight))]
            inputs += [] if bias is None else [self.constant(f"{layer.name}.bias", bias)]
        else:
            inputs = [x, *self.rounded(layer, found, bias)]
        top, bottom, left, right = spec.padding
        made = self.node(
            "Conv",
            layer.name,
            inputs,
            kernel_shape=spec.kernel,
            strides=spec.stride,
            dilations=spec.dilation,
            group=spec.groups,
            pads=(top, left, bottom, right),
        )
        if residual is not None:
            made = self.node("Add", layer.name, [made, residual])
        return self.activated(layer.name, made, layer.activation)

    def rounded(self, layer: Conv, found: Integers, bias: NDArray[Any] | None) -> list[str]:
        """int8 weights and an int32 bias, dequantised."""
        weight = self.constant(f"{layer.name}.weight", found.values)
        scales = self.constant(f"{layer.name}.scales", found.scales)
        zeros = self.constant(f"{layer.name}.zeros", np.zeros(len(found.scales), np.int8))
        inputs = [self.node("DequantizeLinear", f"{layer.name}.weight", [weight, scales, zeros], axis=0)]
        unit = self.unit(layer.source)
        steps = None if unit is None else found.bias(bias, unit)
        if steps is None or unit is None:
            return inputs if bias is None else [*inputs, self.constant(f"{layer.name}.bias", bias)]
        units = np.asarray(np.float64(unit) * found.scales.astype(np.float64), np.float32)
        name = f"{layer.name}.bias"
        parts = [self.constant(name, steps), self.constant(f"{name}.scales", units)]
        zeros = self.constant(f"{name}.zeros", np.zeros(len(steps), np.int32))
        return [*inputs, self.node("DequantizeLinear", name, [*parts, zeros], axis=0)]

    def unit(self, tensor: int) -> float | None:
        """The scale of the bytes that a map was converted from."""
        for layer in self.graph.layers:
            if isinstance(layer, Convert) and layer.target == tensor:
                return self.graph.tensors[layer.source].precision.scale
        return None

    def convert(self, layer: Convert, x: str) -> str:
        made, read = self.graph.tensors[layer.target].precision, self.graph.tensors[layer.source].precision
        precision = made if made.quantized else read
        numbers = [
            self.constant(f"{layer.name}.scale", np.array(precision.scale, np.float32)),
            self.constant(f"{layer.name}.zero", np.array(precision.zero, np.uint8)),
        ]
        return self.node("QuantizeLinear" if made.quantized else "DequantizeLinear", layer.name, [x, *numbers])

    def pool(self, layer: Pool, x: str) -> str:
        spec = layer.spec
        top, bottom, left, right = spec.padding
        geometry: dict[str, Any] = {
            "kernel_shape": spec.kernel,
            "strides": spec.stride,
            "pads": (top, left, bottom, right),
            "ceil_mode": int(spec.ceil_mode),
        }
        if spec.kind == "max":
            return self.node("MaxPool", layer.name, [x], dilations=spec.dilation, **geometry)
        if spec.divisor is not None:
            raise ModelError(f"{self.graph.name}: {quoted(layer.name)} divides by a number of its own, which ONNX has not")
        return self.node("AveragePool", layer.name, [x], count_include_pad=int(spec.count_include_pad), **geometry)

    def add(self, layer: Add, *xs: str) -> str:
        return self.activated(
            layer.name, self.node("Add" if len(xs) == 2 else "Sum", layer.name, list(xs)), layer.activation
        )

    def affine(self, layer: Affine, x: str) -> str:
        for op, key in (("Mul", layer.scale), ("Add", layer.shift)):
            if key is not None:
                x = self.node(op, layer.name, [x, self.constant(layer.name, self.weight(key).reshape(1, -1, 1, 1))])
        return self.activated(layer.name, x, layer.activation)

    def elementwise(self, layer: Elementwise, *xs: str) -> str:
        reads = list(xs)
        if layer.constant is not None:
            reads.append(self.constant(layer.name, self.weight(layer.constant)[None]))
        return self.activated(layer.name, reads, layer.activation)

    def slice(self, layer: Slice, x: str) -> str:
        channels = self.graph.tensors[layer.target].channels
        ends = [self.constant(layer.name, np.array([at], np.int64)) for at in (layer.start, layer.start + channels, 1)]
        return self.node("Slice", layer.name, [x, *ends])

    def shuffle(self, layer: Shuffle, x: str) -> str:
        batch, channels, height, width = self.graph.tensors[layer.source].shape
        apart = np.array([batch, layer.groups, channels // layer.groups, height, width], np.int64)
        x = self.node("Reshape", layer.name, [x, self.constant(layer.name, apart)])
        x = self.node("Transpose", layer.name, [x], perm=(0, 2, 1, 3, 4))
        whole = np.array([batch, channels, height, width], np.int64)
        return self.node("Reshape", layer.name, [x, self.constant(layer.name, whole)])

    def activated(self, name: str, x: str | list[str], activation: str | None) -> str:
        reads = x if isinstance(x, list) else [x]
        if activation is None:
            return reads[0]
        op, _, text = activation.partition("(")
        numbers = [float(number) for number in text.rstrip(")").split(",") if number.strip()]
        match op, numbers:
            case "relu6", []:
                return self.node("Clip", name, [*reads, self.scalar(name, 0.0), self.scalar(name, 6.0)])
            case "clip", [low, high]:
                return self.node("Clip", name, [*reads, self.scalar(name, low), self.scalar(name, high)])
            case "silu", []:
                return self.node("Mul", name, [*reads, self.node("Sigmoid", name, reads)])
            case "hardsigmoid", []:
                return self.node("HardSigmoid", name, reads, alpha=1 / 6, beta=0.5)
        if op in OPERATORS and len(numbers) == len(ATTRIBUTES.get(op, ())):
            return self.node(OPERATORS[op], name, reads, **dict(zip(ATTRIBUTES.get(op, ()), numbers, strict=True)))
        raise ModelError(
            f"{self.graph.name}: {quoted(name)} computes {activation}, which has no form in ONNX that is written"
        )
