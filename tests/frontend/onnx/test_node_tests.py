"""The node tests of the onnx wheel, for every operator that workers claim."""

from __future__ import annotations

import warnings
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import ModelProto, TensorProto, numpy_helper
from onnx.backend.test.case.node import collect_testcases

import fogconv
from fogconv.errors import ModelError
from fogconv.frontend.onnx.model_file import read_model
from fogconv.frontend.onnx.read import graph_of
from fogconv.frontend.onnx.rules import RULES
from fogconv.hardware.topology import Topology
from fogconv.ir.layers import Host
from tests.frontend.onnx.test_rules import LAYERS, NEWER
from tests.frontend.quantized.test_others import NETS
from tests.graph_reference import run_graph

RTOL = 1e-3
"""As the onnx package compares: some expected values have four digits."""

AS_ONNX_RUNTIME = ("resize_downsample_scales_cubic_align_corners", "resize_downsample_scales_linear_align_corners")
"""Their expected values align the corners of a picture of 2.4 rows; ONNX Runtime, which is right here, has 2."""


@cache
def cases() -> dict[str, Any]:
    """Tests of one node that workers claim, whose first input is a batch of maps, by name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        every = collect_testcases(None)
    return {case.name.removeprefix("test_"): case for case in every if _fits(case.model)}


def _fits(model: ModelProto | None) -> bool:
    if model is None or len(model.graph.node) != 1 or len(model.graph.output) != 1 or not model.graph.input:
        return False
    node, kind = model.graph.node[0], model.graph.input[0].type.tensor_type
    dims = [dim.dim_value for dim in kind.shape.dim]
    claimed = node.op_type in RULES and node.domain in ("", "ai.onnx")
    if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
        return False  # an output of bytes, or with a scale per channel: a model of them alone has nothing for workers
    if node.op_type == "Dropout" and len(model.graph.input) > 2:
        return False  # in training, at random
    return claimed and kind.elem_type == TensorProto.FLOAT and len(dims) in (3, 4) and 0 not in dims


def as_a_picture(case: Any) -> ModelProto:
    """The test's model with all inputs but the first as constants."""
    model = ModelProto.FromString(case.model.SerializeToString())
    inputs, _ = case.data_sets[0]
    first, *others = list(model.graph.input)
    for value, array in zip(others, inputs[1:], strict=True):
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(array), value.name))
    del model.graph.input[:]
    model.graph.input.append(first)
    return model


def graph_input(case: Any) -> str:
    return str(case.model.graph.input[0].name)


@pytest.mark.parametrize("name", sorted(cases()))
def test_a_node_computes_what_its_test_expects(name: str, tmp_path: Path) -> None:
    case = cases()[name]
    onnx.save(as_a_picture(case), tmp_path / "node.onnx")
    (image, *_), (expected, *_) = case.data_sets[0]
    try:
        graph = graph_of(read_model(tmp_path / "node.onnx", batch=image.shape[0]), name)
    except ModelError as error:
        assert "its output" in str(error)
        assert expected.dtype != np.float32 or expected.size % image.shape[0] or not expected.size
        return
    if name in AS_ONNX_RUNTIME:
        session = onnxruntime.InferenceSession(str(tmp_path / "node.onnx"), providers=["CPUExecutionProvider"])
        [expected] = session.run(None, {graph_input(case): image})
    got = run_graph(graph, image)
    assert got.shape == expected.shape
    np.testing.assert_allclose(got, expected, rtol=RTOL, atol=2e-5)


@pytest.mark.parametrize("name", sorted(name for name in cases() if "pool_2d" in name))
def test_windows_over_workers_are_those_of_onnx(name: str, tmp_path: Path) -> None:
    """Uneven padding, in which torch has no part."""
    case = cases()[name]
    onnx.save(as_a_picture(case), tmp_path / "node.onnx")
    (image, *_), (expected, *_) = case.data_sets[0]
    graph = graph_of(read_model(tmp_path / "node.onnx", batch=image.shape[0]), name)
    topology = Topology.uniform(3, 2e10, 1.25e8, 1e-4)
    with fogconv.compile(graph, "inproc://2", topology=topology, scheme="rows", threshold=0.0) as engine:
        np.testing.assert_allclose(engine(image), expected, rtol=RTOL, atol=2e-5)


def test_every_claimed_operator_is_computed_by_workers_in_some_test_here_or_of_the_rules(tmp_path: Path) -> None:
    claimed = {each.op_type for nodes, _ in (*LAYERS.values(), *NEWER.values()) for each in nodes}
    claimed |= {each.op_type for net in NETS.values() for each in net("uint8", "int8", True)[0]}
    for name, case in cases().items():
        onnx.save(as_a_picture(case), tmp_path / "node.onnx")
        try:
            graph = graph_of(read_model(tmp_path / "node.onnx", batch=case.data_sets[0][0][0].shape[0]), name)
        except ModelError:
            continue
        if not any(isinstance(layer, Host) for layer in graph.layers):
            claimed.add(case.model.graph.node[0].op_type)
    assert set(RULES) <= claimed
