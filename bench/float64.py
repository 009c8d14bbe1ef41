"""Float64: an ONNX file as its definition says, in double precision, by the reference of the `onnx` package; and how far
fogconv and ONNX Runtime each are from that.

It is slow: for small pictures only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator

from fogconv.cluster.session.session import Session
from fogconv.frontend.onnx.model_file import ModelFile, read_model
from fogconv.frontend.onnx.read import graph_of
from fogconv.frontend.onnx.runtime import in_onnx_runtime
from fogconv.frontend.ports import named
from fogconv.hardware.topology import Topology
from fogconv.ir.arrays import Array
from fogconv.planning.plan_options import PlanOptions
from fogconv.runtime.engine import Engine

ROUNDING = float(np.finfo(np.float32).eps) / 2
"""An error below that of one rounding counts as this much: a framework may be right by chance."""
FAST = 1e11, 1e-7
"""Links, in bytes per second and seconds, on which it pays to share every layer."""


def error_ratio(path: Path, size: tuple[int, int] | None, schemes: Sequence[str], session: Session) -> float:
    """fogconv's largest error of any output in any scheme over ONNX Runtime's of that output, both against float64, in parts
    of the output's largest value. ``size``: of a seeded picture, for files that leave it open."""
    model = read_model(path, size=size)
    graph = graph_of(model, path.stem)
    random = np.random.default_rng(0)
    given = [random.standard_normal(port.shape).astype(np.float32) for port in graph.inputs]
    theirs = named(graph, in_onnx_runtime(model)(given))
    exact = {port.name: output for port, output in zip(graph.outputs, in_float64(model)(given), strict=True)}
    topology = Topology.uniform(session.ranks, 1e9, *FAST)
    worst = 0.0
    for scheme in schemes:
        engine = Engine(graph, session, topology, PlanOptions(scheme))
        ours = engine.run(given).outputs
        engine.close()
        worst = max(worst, largest_ratio(ours, theirs, exact))
    return worst


def largest_ratio(ours: Mapping[str, Array], theirs: Mapping[str, Array], exact: Mapping[str, Array]) -> float:
    """Of our error over theirs, of any output."""
    return max(error(ours[name], right) / max(error(theirs[name], right), ROUNDING) for name, right in exact.items())


def error(found: Array, exact: Array) -> float:
    """The largest, in parts of the largest value."""
    largest = float(np.abs(exact).max(initial=0)) or 1.0
    return float(np.abs(found - exact).max(initial=0)) / largest


def in_float64(model: ModelFile) -> Callable[[Sequence[Array]], list[Array]]:
    """The model's definition in double precision: from its inputs to its outputs, in their order."""
    reference = ReferenceEvaluator(doubled(model.proto))

    def run(inputs: Sequence[Array]) -> list[Array]:
        feeds = {entry.name: np.asarray(x, np.float64) for entry, x in zip(model.inputs, inputs, strict=True)}
        return [np.asarray(output) for output in reference.run(list(model.outputs), feeds)]

    return run


def doubled(proto: ModelProto) -> ModelProto:
    """The same model with every float32 a float64."""
    found = ModelProto()
    found.CopyFrom(proto)
    _double_graph(found.graph)
    return found


def _double_graph(graph: GraphProto) -> None:
    graph.ClearField("value_info")
    for tensor in graph.initializer:
        _double_tensor(tensor)
    for entry in (*graph.input, *graph.output):
        kind = entry.type.tensor_type
        if kind.elem_type == TensorProto.FLOAT:
            kind.elem_type = TensorProto.DOUBLE
    for node in graph.node:
        for attribute in node.attribute:
            _double_attribute(node, attribute)


def _double_attribute(node: NodeProto, attribute: AttributeProto) -> None:
    if attribute.type == AttributeProto.TENSOR:
        _double_tensor(attribute.t)
    elif attribute.type == AttributeProto.GRAPH:
        _double_graph(attribute.g)
    elif node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
        attribute.i = TensorProto.DOUBLE


def _double_tensor(tensor: TensorProto) -> None:
    if tensor.data_type == TensorProto.FLOAT:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float64), tensor.name))
