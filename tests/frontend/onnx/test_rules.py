"""Each rule against ONNX Runtime, on models of a few nodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from fogconv.frontend.onnx.read import read
from fogconv.ir.graph import LayerGraph
from fogconv.ir.layers import Host
from tests.graph_reference import run_graph

RNG = np.random.default_rng(7)
SHAPE = (2, 6, 8, 10)


def numbers(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def saved(
    path: Path,
    nodes: Sequence[NodeProto],
    constants: Mapping[str, np.ndarray],
    *,
    shape: Sequence[int | str] = SHAPE,
    opset: int = 17,
    sizes: Sequence[int] | None = None,
) -> Path:
    graph = helper.make_graph(
        list(nodes),
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(shape))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, sizes)],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9), path)
    return path


def compared(path: Path, **options: Any) -> LayerGraph:
    """The graph, after it has computed what ONNX Runtime computes."""
    graph = read(path, batch=SHAPE[0], **options)
    x = numbers(*graph.picture.shape)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (expected,) = session.run(None, {"x": x})
    got = run_graph(graph, x)
    assert got.shape == expected.shape == graph.outputs[0].shape
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=2e-5)
    return graph


def node(op: str, inputs: Sequence[str], output: str = "y", **attributes: Any) -> NodeProto:
    return helper.make_node(op, list(inputs), output.split(","), **attributes)


CHANNEL = (6, 1, 1)
LAYERS: dict[str, tuple[list[NodeProto], dict[str, np.ndarray]]] = {
    "a constant is added": ([node("Add", ["x", "c"])], {"c": numbers(*CHANNEL)}),
    "a constant is added from the left": ([node("Add", ["c", "x"])], {"c": numbers(1, *CHANNEL)}),
    "a constant is subtracted": ([node("Sub", ["x", "c"])], {"c": numbers(*CHANNEL)}),
    "it is subtracted from a constant": ([node("Sub", ["c", "x"])], {"c": numbers(1)}),
    "it is multiplied by a number": ([node("Mul", ["x", "c"])], {"c": np.float32(0.3)}),
    "it is divided": ([node("Div", ["x", "c"])], {"c": 1 + numbers(*CHANNEL) ** 2}),
    "maps are added": ([node("Relu", ["x"], "a"), node("Add", ["a", "x"])], {}),
    "three maps are added": ([node("Relu", ["x"], "a"), node("Sum", ["a", "x", "a"])], {}),
    "the greater of two maps": ([node("Sigmoid", ["x"], "a"), node("Max", ["a", "x"])], {}),
    "a gate": ([node("GlobalAveragePool", ["x"], "a"), node("Sigmoid", ["a"], "b"), node("Mul", ["b", "x"])], {}),
    "silu": ([node("Sigmoid", ["x"], "a"), node("Mul", ["x", "a"])], {}),
    "hardswish by hand": ([node("HardSigmoid", ["x"], "a", alpha=1 / 6), node("Mul", ["x", "a"])], {}),
    "relu6 by inputs": ([node("Clip", ["x", "low", "high"])], {"low": np.float32(0), "high": np.float32(6)}),
    "relu by clip": ([node("Clip", ["x", "low"])], {"low": np.float32(0)}),
    "hardswish": ([node("HardSwish", ["x"])], {}),
    "dropout does nothing": ([node("Dropout", ["x"], "a"), node("Relu", ["a"])], {}),
    "leaky relu": ([node("LeakyRelu", ["x"], alpha=0.2)], {}),
    "channels in two and together": (
        [node("Split", ["x", "sizes"], "a,b", axis=1), node("Concat", ["b", "a"], axis=1)],
        {"sizes": np.array([2, 4])},
    ),
    "the last channels": (
        [node("Slice", ["x", "s", "e", "d"])],
        {"s": np.array([-2]), "e": np.array([99]), "d": np.array([1])},
    ),
    "a shuffle": (
        [
            node("Shape", ["x"], "shape"),
            node("Slice", ["shape", "zero", "one"], "batch"),
            node("Concat", ["batch", "parts"], "five", axis=0),
            node("Reshape", ["x", "five"], "a"),
            node("Transpose", ["a"], "b", perm=[0, 2, 1, 3, 4]),
            node("Reshape", ["b", "shape"]),
        ],
        {"zero": np.array([0]), "one": np.array([1]), "parts": np.array([3, 2, 8, 10])},
    ),
    "a linear layer": (
        [node("Flatten", ["x"], "a"), node("Gemm", ["a", "w", "b"], alpha=0.5, beta=2.0, transB=1)],
        {"w": numbers(7, 480), "b": numbers(7)},
    ),
    "a product with a matrix": (
        [node("Flatten", ["x"], "a"), node("MatMul", ["a", "w"], "m"), node("Add", ["m", "b"])],
        {"w": numbers(480, 7), "b": numbers(7)},
    ),
    "a pad before convs": (
        [node("Pad", ["x", "p"], "a"), node("Conv", ["a", "w"], pads=[1, 0, 0, 1])],
        {"p": np.array([0, 0, 1, 2, 0, 0, 0, 1]), "w": numbers(4, 6, 3, 3)},
    ),
    "a grouped conv that keeps the size": (
        [node("Conv", ["x", "w", "b"], group=3, auto_pad="SAME_UPPER", strides=[2, 2])],
        {"w": numbers(6, 2, 3, 4), "b": numbers(6)},
    ),
    "maxima over rows and columns": ([node("ReduceMax", ["x"], axes=[3, 2])], {}),
    "a clip between other limits": ([node("Clip", ["x", "l", "h"])], {"l": np.float32(-1), "h": np.float32(1)}),
    "maps times a map of constants": ([node("Mul", ["c", "x"])], {"c": numbers(1, 6, 8, 10)}),
    "a slope per channel": ([node("PRelu", ["x", "s"])], {"s": numbers(*CHANNEL)}),
    "one slope": ([node("PRelu", ["x", "s"])], {"s": np.float32([0.2])}),
    "a map less its means": ([node("GlobalAveragePool", ["x"], "m"), node("Sub", ["x", "m"])], {}),
    "a map divided by a map": ([node("Exp", ["x"], "e"), node("Div", ["x", "e"])], {}),
    "the least of three maps": ([node("Relu", ["x"], "a"), node("Neg", ["x"], "b"), node("Min", ["a", "b", "x"])], {}),
    "the greater of a map and a number": ([node("Max", ["x", "c"])], {"c": np.float32(-0.25)}),
    "hardswish as PaddlePaddle writes it": (
        [
            node("Add", ["x", "c"], "a"),
            node("Clip", ["a", "l", "h"], "b"),
            node("Mul", ["x", "b"], "m"),
            node("Div", ["m", "h"]),
        ],
        {"c": np.float32(3), "l": np.float32(0), "h": np.float32(6)},
    ),
    "hard sigmoid with other numbers": ([node("HardSigmoid", ["x"], alpha=0.2)], {}),
    "gelu by hand": (
        [
            node("Div", ["x", "root"], "a"),
            node("Erf", ["a"], "b"),
            node("Add", ["b", "one"], "c"),
            node("Mul", ["x", "c"], "d"),
            node("Mul", ["d", "half"]),
        ],
        {"root": np.float32(2**0.5), "one": np.float32(1), "half": np.float32(0.5)},
    ),
    "mish by hand": ([node("Softplus", ["x"], "a"), node("Tanh", ["a"], "b"), node("Mul", ["x", "b"])], {}),
    **{
        f"{op} of a map": ([node(op, ["x"])], {})
        for op in (
            "Elu",
            "Selu",
            "Celu",
            "Softplus",
            "Softsign",
            "Tanh",
            "Erf",
            "Exp",
            "Abs",
            "Floor",
            "Ceil",
            "Round",
            "Neg",
        )
    },
    **{
        f"{op} of what is positive": ([node("Exp", ["x"], "e"), node(op, ["e"])], {}) for op in ("Log", "Sqrt", "Reciprocal")
    },
    "a square": ([node("Pow", ["x", "two"])], {"two": np.float32(2)}),
    "instance norm": ([node("InstanceNormalization", ["x", "s", "b"])], {"s": numbers(6), "b": numbers(6)}),
    "a group norm as torch writes it": (
        [
            node("Reshape", ["x", "groups"], "g"),
            node("InstanceNormalization", ["g", "s", "b"], "n"),
            node("Shape", ["x"], "shape"),
            node("Reshape", ["n", "shape"], "m"),
            node("Mul", ["m", "w"]),
        ],
        {"groups": np.array([0, 3, -1]), "s": np.ones(3, np.float32), "b": numbers(3), "w": numbers(*CHANNEL)},
    ),
    "layer norm": (
        [node("LayerNormalization", ["x", "s", "b"], axis=1)],
        {"s": numbers(6, 8, 10), "b": numbers(6, 8, 10)},
    ),
    "a block of convnext": (
        [
            node("Transpose", ["x"], "t", perm=[0, 2, 3, 1]),
            node("LayerNormalization", ["t", "s", "b"], "n", axis=-1, epsilon=1e-6),
            node("MatMul", ["n", "w"], "m"),
            node("Add", ["m", "c"], "a"),
            node("Div", ["a", "root"], "q"),
            node("Erf", ["q"], "e"),
            node("Add", ["e", "one"], "f"),
            node("Mul", ["a", "f"], "g"),
            node("Mul", ["g", "half"], "h"),
            node("MatMul", ["h", "v"], "k"),
            node("Transpose", ["k"], "u", perm=[0, 3, 1, 2]),
            node("Add", ["u", "x"]),
        ],
        {
            "s": numbers(6),
            "b": numbers(6),
            "w": numbers(6, 9),
            "c": numbers(9),
            "v": numbers(9, 6),
            "root": np.float32(2**0.5),
            "one": np.float32(1),
            "half": np.float32(0.5),
        },
    ),
    "lrn": ([node("LRN", ["x"], size=3, alpha=0.5, beta=0.75, bias=1.5)], {}),
    "softmax over channels": ([node("Softmax", ["x"], axis=1)], {}),
    "log softmax over channels": ([node("LogSoftmax", ["x"], axis=1)], {}),
    "means over rows and columns": ([node("ReduceMean", ["x"], axes=[-1, 2], keepdims=0)], {}),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_rule_makes_layers_that_compute_what_onnx_runtime_computes(name: str, tmp_path: Path) -> None:
    nodes, constants = LAYERS[name]
    graph = compared(saved(tmp_path / "m.onnx", nodes, constants))
    assert not [layer for layer in graph.layers if isinstance(layer, Host)]


HOSTED: dict[str, tuple[list[NodeProto], dict[str, np.ndarray]]] = {
    "softmax in the middle": ([node("Softmax", ["x"], "a", axis=3), node("Add", ["a", "x"])], {}),
    "a shape that is computed": (
        [node("TopK", ["x", "k"], "v,i", axis=2), node("Relu", ["v"])],
        {"k": np.array([4])},
    ),
    "values between two groups": (
        [
            node("Softmax", ["x"], "a", axis=3),
            node("Transpose", ["a"], "b", perm=[0, 2, 3, 1]),
            node("Relu", ["a"], "c"),
            node("Sin", ["c"], "d"),
            node("Transpose", ["d"], "e", perm=[0, 2, 3, 1]),
            node("Mul", ["b", "e"]),
        ],
        {},
    ),
}


@pytest.mark.parametrize("name", HOSTED)
def test_what_workers_do_not_know_runs_in_onnx_runtime(name: str, tmp_path: Path) -> None:
    nodes, constants = HOSTED[name]
    graph = compared(saved(tmp_path / "m.onnx", nodes, constants))
    assert [layer for layer in graph.layers if isinstance(layer, Host)]


NEWER: dict[str, tuple[list[NodeProto], int]] = {
    "gelu": ([node("Gelu", ["x"])], 20),
    "gelu by tanh": ([node("Gelu", ["x"], approximate="tanh")], 20),
    "mish": ([node("Mish", ["x"])], 18),
    "swish": ([node("Swish", ["x"], alpha=1.5)], 24),
    "group norm": ([node("GroupNormalization", ["x", "s", "b"], num_groups=3)], 21),
}


@pytest.mark.parametrize("name", NEWER)
def test_rules_of_newer_operators(name: str, tmp_path: Path) -> None:
    nodes, opset = NEWER[name]
    path = saved(tmp_path / "m.onnx", nodes, {"s": numbers(6), "b": numbers(6)}, opset=opset)
    graph = read(path, batch=SHAPE[0])
    assert not [layer for layer in graph.layers if isinstance(layer, Host)]
    x = numbers(*SHAPE)
    (expected,) = ReferenceEvaluator(str(path)).run(None, {"x": x})
    np.testing.assert_allclose(run_graph(graph, x), expected, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("opset", [9, 11, 13, 17, onnx.defs.onnx_opset_version()])
def test_operators_of_every_opset(opset: int, tmp_path: Path) -> None:
    """What was an attribute became an input."""
    squeeze = node("Squeeze", ["g"], axes=[2, 3]) if opset < 13 else node("Squeeze", ["g", "axes"])
    clip = node("Clip", ["n"], "c", min=0.0, max=6.0) if opset < 11 else node("Clip", ["n", "low", "high"], "c")
    nodes = [
        node("BatchNormalization", ["x", "s", "b", "m", "v"], "n"),
        clip,
        node("MaxPool", ["c"], "p", kernel_shape=[2, 2], strides=[2, 2]),
        node("GlobalAveragePool", ["p"], "g"),
        squeeze,
    ]
    constants = {name: numbers(6) for name in "sbm"} | {"v": 1 + numbers(6) ** 2}
    if opset >= 11:
        constants |= {"low": np.float32(0), "high": np.float32(6)}
    if opset >= 13:
        constants["axes"] = np.array([2, 3])
    path = saved(tmp_path / "m.onnx", nodes, constants, opset=opset)
    try:
        onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception as error:
        pytest.skip(f"ONNX Runtime is older than the onnx package: {error}")
    graph = compared(path)
    assert not [layer for layer in graph.layers if isinstance(layer, Host)]


def test_a_size_that_the_file_leaves_open_is_fixed(tmp_path: Path) -> None:
    nodes, constants = [node("Relu", ["x"])], {}
    path = saved(tmp_path / "m.onnx", nodes, constants, shape=("n", 6, "h", "w"))
    assert compared(path, size=(5, 7)).outputs[0].shape == (SHAPE[0], 6, 5, 7)
