"""A graph in fp32 becomes one on bytes that computes nearly the same, and what can't be is said in a sentence."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fogconv.errors import InputError, ModelError
from fogconv.ir.graph import LayerGraph
from fogconv.ir.layers import AcrossChannels, Conv, Convert, Tensor
from fogconv.quantization.plain_form import plain_form
from fogconv.quantization.precision import for_shapes, in_precision, precision_report
from fogconv.quantization.quantize import quantized
from fogconv.quantization.recorder import Recorder
from tests.quantized_net import network, on_bytes, picture, pictures


def output(graph: LayerGraph, seed: int) -> np.ndarray:
    [number] = graph.results
    return Recorder(graph, [number]).of([picture(seed)])[number]


def test_every_layer_computes_on_bytes_and_the_answer_is_nearly_the_same() -> None:
    found = on_bytes()
    assert found.share == 1.0 and found.agreement == 1.0
    assert {layer.precision for layer in found.layers} == {"int8"}
    inner = [layer for layer in found.graph.layers if not isinstance(layer, Convert)]
    assert all(found.graph.tensors[number].precision.quantized for layer in inner for number in layer.reads)
    for seed in (100, 101):  # not among those that it was calibrated with
        exact, rounded = output(network(), seed), output(found.graph, seed)
        assert np.linalg.norm(rounded - exact) < 0.05 * np.linalg.norm(exact)
        assert not np.array_equal(rounded, exact)


def test_the_graph_on_bytes_computes_what_the_marked_one_does() -> None:
    """But for sums that round to another step in fp32."""
    marked, rounded = output(on_bytes().marked.graph, 5), output(on_bytes().graph, 5)
    assert np.abs(marked - rounded).max() < 0.02 * np.abs(marked).max()


def test_the_plain_form_computes_the_same() -> None:
    assert all(layer.residual is None for layer in plain_form(network()).layers if isinstance(layer, Conv))
    assert np.allclose(output(plain_form(network()), 1), output(network(), 1), rtol=1e-5, atol=1e-5)


def test_layers_above_the_tolerance_stay_in_fp32() -> None:
    found = quantized(network(), pictures(1), tolerance=0.0)
    assert found.share == 0.0 and {layer.precision for layer in found.layers} == {"fp32"}
    assert np.allclose(output(found.graph, 1), output(network(), 1), rtol=1e-4, atol=1e-4)
    errors = sorted(layer.own for layer in on_bytes().layers)
    half = quantized(network(), pictures(), tolerance=errors[len(errors) // 2])
    assert 0.0 < half.share < 1.0
    report = precision_report(half.graph)
    assert report is not None and set(report.layers.values()) == {"int8", "fp32"}


@pytest.mark.parametrize("method", ["mse", "percentile", "minmax"])
def test_each_way_to_find_ranges_is_close(method: str) -> None:
    assert quantized(network(), pictures(), method=method).noise < 0.1  # type: ignore[arg-type]


def test_what_cannot_be_quantised_is_said_in_a_sentence() -> None:
    with pytest.raises(InputError, match="needs pictures"):
        quantized(network(), [])
    broken = picture().copy()
    broken[0, 1, 2, 3] = np.nan
    with pytest.raises(InputError, match="not finite"):
        quantized(network(), [[broken]])
    with pytest.raises(ModelError, match="quantised already"):
        quantized(on_bytes().graph, pictures(1))
    tensors = (Tensor("x", 1, 3, 16, 16), Tensor("y", 1, 3, 16, 16))
    softmax = AcrossChannels("softmax", "softmax", 0, 1)
    with pytest.raises(ModelError, match="no layer that can be quantised"):
        quantized(LayerGraph.single("net", tensors, (softmax,), 0, 1, (1, 3, 16, 16), {}), pictures(1))
    weights = dict(network().weights) | {"b1": np.full(40, np.inf, np.float32)}
    with pytest.raises(ModelError, match="conv0 has values that are not finite"):
        quantized(replace(network(), weights=weights), pictures(1))


def test_a_precision_is_what_was_asked_for() -> None:
    assert in_precision(network(), "fp32", None) is network()
    assert in_precision(on_bytes().graph, "int8", None) is on_bytes().graph
    with pytest.raises(InputError, match="--calibrate"):
        in_precision(network(), "int8", None)
    with pytest.raises(InputError, match="int4"):
        in_precision(network(), "int4", None)
    assert precision_report(network()) is None
    assert precision_report(in_precision(network(), "auto", pictures(2))) is not None


def test_a_plan_needs_no_pictures() -> None:
    """It has the same layers on the same bytes as the quantised graph has."""
    planned, real = for_shapes(network(), "int8"), on_bytes().graph
    assert [type(layer) for layer in planned.layers] == [type(layer) for layer in real.layers]
    assert [tensor.precision.element for tensor in planned.tensors] == [each.precision.element for each in real.tensors]
    convs = [layer.weight for layer in planned.layers if isinstance(layer, Conv)]
    assert len(set(convs)) == len(convs), "equal weights would be counted once"


def test_written_to_onnx_and_read_again_it_gives_the_same_bits(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    from fogconv.frontend.onnx.read import read
    from fogconv.frontend.onnx.write import write

    found = on_bytes()
    write(found.marked.graph, found.marked.integers, tmp_path / "net.onnx")
    again = read(tmp_path / "net.onnx")
    assert [tensor.precision for tensor in again.tensors] == [tensor.precision for tensor in found.graph.tensors]
    session = onnxruntime.InferenceSession(str(tmp_path / "net.onnx"), providers=["CPUExecutionProvider"])
    last = max(tensor.precision.scale for tensor in found.graph.tensors[-3:] if tensor.precision.quantized)
    for seed in range(3):
        ours = output(again, seed)
        assert np.array_equal(ours, output(found.graph, seed))
        theirs = session.run(None, {"input": picture(seed)})[0]
        assert np.abs(ours.reshape(theirs.shape) - theirs).max() <= 2 * last
