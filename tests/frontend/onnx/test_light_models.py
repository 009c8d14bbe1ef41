"""The `light` zoo models of the onnx wheel, with seeded weights: as they come, every weight of a layer is the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.backend.test
import onnxruntime
import pytest
from onnx import ModelProto, numpy_helper

from fogconv.frontend.onnx.read import read
from fogconv.ir.graph import LayerGraph
from fogconv.ir.layers import Conv, Host
from tests.graph_reference import run_graph

LIGHT = Path(onnx.backend.test.__file__).parent / "data" / "light"
QUICK = ("light_squeezenet", "light_shufflenet", "light_inception_v1")
MODELS = [
    pytest.param(path.stem, marks=() if path.stem in QUICK else pytest.mark.full) for path in sorted(LIGHT.glob("*.onnx"))
]
TOLERANCE = 2e-4
"""Of the output's largest value."""


def seeded(model: ModelProto) -> ModelProto:
    """Its large constants drawn anew, so that activations neither vanish nor grow; variances stay positive."""
    rng = np.random.default_rng(3)
    shapes = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    variances = {node.input[4] for node in model.graph.node if node.op_type == "BatchNormalization"}
    kept = []
    for node in model.graph.node:
        if node.op_type != "ConstantOfShape":
            kept.append(node)
            continue
        shape = [int(side) for side in shapes[node.input[0]]]
        spread = np.sqrt(2 / max(1, int(np.prod(shape[1:])))) if len(shape) > 1 else 0.1
        values = rng.standard_normal(shape) * spread
        array = 1 + np.abs(values) if node.output[0] in variances else values
        model.graph.initializer.append(numpy_helper.from_array(array.astype(np.float32), node.output[0]))
    del model.graph.node[:]
    model.graph.node.extend(kept)
    return model


def read_seeded(name: str, path: Path) -> LayerGraph:
    onnx.save(seeded(onnx.load(LIGHT / f"{name}.onnx")), path)
    return read(path)


@pytest.mark.parametrize("name", MODELS)
def test_a_light_model_computes_what_onnx_runtime_computes(name: str, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    graph = read_seeded(name, path)
    assert {op for layer in graph.layers if isinstance(layer, Host) for op in layer.ops} <= {"LRN", "Softmax"}
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    x = np.random.default_rng(1).standard_normal(graph.picture.shape).astype(np.float32)
    # Inputs with a value of their own are weights: the picture is the one that fogconv found.
    (entry,) = [each.name for each in session.get_inputs() if tuple(each.shape) == x.shape]
    (expected,) = session.run(None, {entry: x})
    largest = float(np.abs(expected).max())
    got = run_graph(graph, x)
    assert np.abs(got - expected).max() <= TOLERANCE * largest
    convs = [layer.name for layer in graph.layers if isinstance(layer, Conv)]
    for conv in {convs[0], convs[len(convs) // 2], convs[-1]}:
        assert np.abs(run_graph(graph, x, without=conv) - expected).max() > TOLERANCE * largest, f"{conv} can't be seen"
