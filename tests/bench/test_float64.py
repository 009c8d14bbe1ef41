"""ONNX files in float64: the definition is followed to fifteen digits, and an error in a layer shows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bench.float64 import ROUNDING, doubled, error, error_ratio, in_float64, largest_ratio
from fogconv.cluster.connect import connect
from fogconv.frontend.onnx.model_file import read_model

pytestmark = pytest.mark.alone

RANDOM = np.random.default_rng(5)
FIRST, SECOND = (RANDOM.standard_normal(shape).astype(np.float32) for shape in ((16, 3, 1, 1), (8, 16, 1, 1)))


def saved(path: Path) -> Path:
    """Two convs, a constant in a node, a cast and a leaky ReLU between them."""
    nodes = [
        helper.make_node("Conv", ["x", "first"], ["a"]),
        helper.make_node("Constant", [], ["third"], value=numpy_helper.from_array(np.float32([1 / 3]))),
        helper.make_node("Mul", ["a", "third"], ["b"]),
        helper.make_node("Cast", ["b"], ["c"], to=TensorProto.FLOAT),
        helper.make_node("LeakyRelu", ["c"], ["d"], alpha=0.25),
        helper.make_node("Conv", ["d", "second"], ["y"]),
    ]
    shape = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 10])
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 8, 8, 10])
    weights = [numpy_helper.from_array(FIRST, "first"), numpy_helper.from_array(SECOND, "second")]
    graph = helper.make_graph(nodes, "two", [shape], [out], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def by_hand(x: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
    third = np.float64(np.float32(1 / 3))
    a = np.einsum("fc,nchw->nfhw", FIRST[:, :, 0, 0].astype(np.float64), x) * third
    leaky = np.where(a > 0, a, 0.25 * a)
    found: np.ndarray = np.einsum("fc,nchw->nfhw", SECOND[:, :, 0, 0].astype(np.float64), leaky)  # type: ignore[type-arg]
    return found


def test_every_number_is_a_double(tmp_path: Path) -> None:
    model = read_model(saved(tmp_path / "two.onnx"))
    x = RANDOM.standard_normal((1, 3, 8, 10)).astype(np.float32)
    (found,) = in_float64(model)([x])
    assert found.dtype == np.float64
    assert error(found, by_hand(x.astype(np.float64))) < 1e-14
    onnx.checker.check_model(doubled(model.proto))
    assert model.proto.graph.initializer[0].data_type == TensorProto.FLOAT


def test_errors_of_our_rounding_are_like_onnx_runtimes(tmp_path: Path) -> None:
    with connect("inproc://2") as session:
        ratio = error_ratio(saved(tmp_path / "two.onnx"), None, ["rows", "depth"], session)
    assert 0 < ratio <= 5


def test_the_worst_output_counts_and_a_lucky_framework_does_not() -> None:
    exact = {"a": np.array([1.0, 2.0]), "b": np.array([10.0])}
    theirs = {"a": np.array([1.0, 2.0002]), "b": np.array([10.0])}
    ours = {"a": np.array([1.0006, 2.0]), "b": np.array([10 * (1 + 2 * ROUNDING)])}
    assert largest_ratio(ours, theirs, exact) == pytest.approx(3.0)
    assert largest_ratio({**ours, "b": np.array([10.001])}, theirs, exact) > 1000
