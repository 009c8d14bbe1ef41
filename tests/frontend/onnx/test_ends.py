"""ONNX models with several inputs and outputs, held to ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper

import fogconv
from fogconv.errors import ModelError
from fogconv.frontend.onnx.read import read
from fogconv.hardware.topology import Topology
from fogconv.ir.layers import Host
from tests.frontend.onnx.test_rules import node, numbers
from tests.graph_reference import run_outputs

FLOAT, INT = TensorProto.FLOAT, TensorProto.INT64


def model(path: Path, nodes: Sequence[NodeProto], inputs: Sequence[tuple[str, int, Any]], outputs: Sequence[str]) -> Path:
    weight = numpy_helper.from_array(numbers(20, 3, 3, 3), "w")
    graph = helper.make_graph(
        list(nodes),
        "several",
        [helper.make_tensor_value_info(*each) for each in inputs],
        [onnx.ValueInfoProto(name=name) for name in outputs],
        [weight],
    )
    for value in graph.output:
        value.type.CopyFrom(onnx.TypeProto())
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


CONV = node("Conv", ["x", "w"], "c", pads=[1, 1, 1, 1])
CASES: dict[str, tuple[list[NodeProto], list[tuple[str, int, Any]], list[str]]] = {
    "a map that is read again": (
        [CONV, node("Relu", ["c"], "r"), node("GlobalAveragePool", ["r"], "g"), node("Flatten", ["g"], "f")],
        [("x", FLOAT, [1, 3, 8, 10])],
        ["c", "r", "f"],
    ),
    "numbers that are no maps": (
        [CONV, node("ArgMax", ["c"], "a", axis=1)],
        [("x", FLOAT, [1, 3, 8, 10])],
        ["a", "c"],
    ),
    "the picture after a small input": (
        [CONV, node("Mul", ["c", "scale"], "m"), node("Cast", ["scale"], "n", to=INT)],
        [("scale", FLOAT, [1]), ("x", FLOAT, [1, 3, 8, 10])],
        ["m", "n", "c"],
    ),
    "two pictures": (
        [CONV, node("Conv", ["z", "w"], "d", pads=[1, 1, 1, 1]), node("Add", ["c", "d"], "s")],
        [("x", FLOAT, ["n", 3, 8, 10]), ("z", FLOAT, ["n", 3, 8, 10])],
        ["s", "d"],
    ),
    "the input itself": ([CONV, node("Identity", ["x"], "y")], [("x", FLOAT, [1, 3, 8, 10])], ["y", "c"]),
    "one value under two names": (
        [CONV, node("Identity", ["c"], "a"), node("Identity", ["c"], "b")],
        [("x", FLOAT, [1, 3, 8, 10])],
        ["a", "b"],
    ),
    "a map padded at the end": (
        [CONV, node("Pad", ["c", "p"], "y"), node("Constant", [], "p", value_ints=[0, 0, 1, 1, 0, 0, 1, 1])][::-1],
        [("x", FLOAT, [1, 3, 8, 10])],
        ["y", "c"],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_several_ends_are_what_onnx_runtime_gives(name: str, tmp_path: Path) -> None:
    nodes, inputs, outputs = CASES[name]
    order = {"Constant": 0, "Conv": 1}
    path = model(tmp_path / "m.onnx", sorted(nodes, key=lambda each: order.get(each.op_type, 2)), inputs, outputs)
    graph = read(path)
    given = {port.name: numbers(*port.shape or ()) for port in graph.inputs}
    wanted = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(outputs, given)
    found = run_outputs(graph, [given[port.name] for port in graph.inputs])
    assert [port.name for port in graph.outputs] == outputs
    for mine, theirs in zip(found, wanted, strict=True):
        assert mine.shape == theirs.shape
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=2e-5)
    topology = Topology.uniform(3, 1e9, 1e11, 1e-7)
    with fogconv.compile(str(path), "inproc://2", topology=topology, scheme="rows") as engine:
        results = engine(given)
        assert isinstance(results, tuple)
        for mine, theirs in zip(results, wanted, strict=True):
            assert mine.dtype == theirs.dtype
            np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-4)


def test_open_sizes_of_further_inputs_come_from_what_is_given(tmp_path: Path) -> None:
    nodes = [CONV, node("Mul", ["c", "scale"], "m")]
    path = model(tmp_path / "m.onnx", nodes, [("x", FLOAT, ["n", 3, "h", "w"]), ("scale", FLOAT, ["k"])], ["m"])
    assert read(path, size=(8, 10)).inputs[1].shape == (1,)
    assert read(path, size=(8, 10), shapes={"scale": (10,)}).inputs[1].shape == (10,)
    assert read(path, size=(8, 10), shapes={1: (10,)}).inputs[1].shape == (10,)
    with pytest.raises(ModelError, match=r"its input 'scale' has 1 axes, not the 2"):
        read(path, size=(8, 10), shapes={"scale": (10, 1)})
    assert isinstance(read(path, size=(8, 10)).layers[-1], Host)


def test_a_size_that_nothing_says_is_asked_for(tmp_path: Path) -> None:
    path = model(tmp_path / "m.onnx", [CONV], [("x", FLOAT, [1, 3, 8, 10]), ("z", INT, [1, "k"])], ["c"])
    with pytest.raises(ModelError, match="its input 'z' leaves its size open: give the input"):
        read(path)


def test_a_detector_that_ends_in_suppression_and_takes_the_pictures_size(tmp_path: Path) -> None:
    """As YOLOv3's files do: boxes are scaled by an input of their own, and their number depends on the picture."""
    nodes = [
        CONV,
        node("Slice", ["c", "zero", "four", "one"], "raw"),
        node("Reshape", ["raw", "boxes_shape"], "flat"),
        node("Transpose", ["flat"], "rows", perm=[0, 2, 1]),
        node("Concat", ["image_shape", "image_shape"], "sides", axis=1),
        node("Mul", ["rows", "sides"], "boxes"),
        node("Slice", ["c", "four", "six", "one"], "classes"),
        node("Reshape", ["classes", "scores_shape"], "scores"),
        node("NonMaxSuppression", ["boxes", "scores", "most", "overlap", "least"], "kept"),
        node("Cast", ["kept"], "indices", to=TensorProto.INT32),
    ]
    constants = {
        "zero": np.array([0]), "four": np.array([4]), "six": np.array([6]), "one": np.array([1]),
        "boxes_shape": np.array([1, 4, 80]), "scores_shape": np.array([1, 2, 80]), "most": np.array([5]),
        "overlap": np.array([0.5], np.float32), "least": np.array([0.1], np.float32),
    }  # fmt: skip
    inputs = [("x", FLOAT, ["n", 3, "h", "w"]), ("image_shape", FLOAT, ["n", 2])]
    path = model(tmp_path / "m.onnx", nodes, inputs, ["boxes", "scores", "indices"])
    whole = onnx.load(path)
    whole.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in constants.items())
    onnx.save(whole, path)
    given = {"x": numbers(1, 3, 8, 10), "image_shape": np.array([[300, 400]], np.float32)}
    wanted = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, given)
    assert 0 < len(wanted[2]) <= 10
    topology = Topology.uniform(3, 1e9, 1e11, 1e-7)
    with fogconv.compile(str(path), "inproc://2", example=given, topology=topology, scheme="rows") as engine:
        for found in (engine(given), engine(given["x"], given["image_shape"])):
            for mine, theirs in zip(found, wanted, strict=True):
                assert (mine.shape, mine.dtype) == (theirs.shape, theirs.dtype)
                np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-3)
        assert list(engine.run(given).outputs) == ["boxes", "scores", "indices"]
        assert [each.operator for each in engine.plan.graph.hosted if each.operator == "NonMaxSuppression"]
