"""Chains of operators as ONNX Runtime computes them, on one thread.

Its layouts of maps are left out (optimisations up to "extended"): a convolution alone also brings its map into a layout and
back, and every pair would seem to save that. What they do not change is which operators are one kernel.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from fogconv.calibration.fusion.operators import CHANNELS, CLIP, KERNEL, PADDING, STRIDE, Chain, Operator
from fogconv.frontend.onnx.runtime import session_of

OPSET, IR_VERSION = 17, 8
OVERHEAD_RUNS = 200
ACTIVATIONS = {"relu": "Relu", "hardswish": "HardSwish", "sigmoid": "Sigmoid"}


class OnnxRuntime:
    """The runtime. A call's own cost, that of a model that does next to nothing, is not counted."""

    name = "onnxruntime"

    def __init__(self) -> None:
        x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
        y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
        session = _session(helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "nothing", [x], [y]))
        feeds = {"x": np.zeros(1, np.float32)}
        self._overhead_s = min(_timed(session, feeds) for _ in range(OVERHEAD_RUNS))

    def chain(self, operators: Chain, side: int) -> Callable[[], float]:
        draft = _Draft()
        source = "x"
        for number, operator in enumerate(operators):
            source = draft.add(operator, source, number)
        shape = [1, CHANNELS, side, side]
        entries = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in draft.others]
        first = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
        end = helper.make_tensor_value_info(source, TensorProto.FLOAT, None)
        graph = helper.make_graph(draft.nodes, "+".join(operators), [first, *entries], [end], draft.weights)
        session = _session(graph)
        random = np.random.default_rng(0)
        feeds = {name: random.standard_normal(shape, np.float32) for name in ("x", *draft.others)}
        overhead_s = self._overhead_s
        return lambda: max(1e-9, _timed(session, feeds) - overhead_s)


class _Draft:
    """Nodes and weights of a graph, and its inputs beside the first."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.weights: list[Any] = []
        self.others: list[str] = []

    def add(self, operator: Operator, source: str, number: int) -> str:
        """Add an operator; the name of its result."""
        target = f"t{number}"
        size, stride, pad = (table.get(operator, usual) for table, usual in ((KERNEL, 1), (STRIDE, 1), (PADDING, 0)))
        window: dict[str, Any] = {"kernel_shape": [size, size], "strides": [stride, stride], "pads": [pad] * 4}
        match operator:
            case "conv" | "depthwise":
                groups = CHANNELS if operator == "depthwise" else 1
                weight = np.random.default_rng(number).standard_normal((CHANNELS, CHANNELS // groups, size, size)) / 8
                keys = self._weights(number, weight, np.zeros(CHANNELS))
                node = helper.make_node("Conv", [source, *keys], [target], group=groups, **window)
            case "batchnorm":
                figures = [np.full(CHANNELS, value) for value in (0.5, 0.25, 0.0, 1.0)]
                node = helper.make_node("BatchNormalization", [source, *self._weights(number, *figures)], [target])
            case "add":
                self.others.append(f"y{number}")
                node = helper.make_node("Add", [source, f"y{number}"], [target])
            case "maxpool":
                node = helper.make_node("MaxPool", [source], [target], **window)
            case "avgpool":
                node = helper.make_node("AveragePool", [source], [target], **window)
            case "globalpool":
                node = helper.make_node("GlobalAveragePool", [source], [target])
            case "clip":
                node = helper.make_node("Clip", [source, *self._weights(number, *map(np.asarray, CLIP))], [target])
            case _:
                node = helper.make_node(ACTIVATIONS[operator], [source], [target])
        self.nodes.append(node)
        return target

    def _weights(self, number: int, *arrays: Any) -> list[str]:
        names = [f"w{number}.{place}" for place in range(len(arrays))]
        self.weights += [
            numpy_helper.from_array(np.asarray(each, np.float32), name) for each, name in zip(arrays, names, strict=True)
        ]
        return names


def _session(graph: Any) -> Any:
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    return session_of(model.SerializeToString(), threads=1, layouts=False)


def _timed(session: Any, feeds: Any) -> float:
    begin = time.perf_counter()
    session.run(None, feeds)
    return time.perf_counter() - begin
