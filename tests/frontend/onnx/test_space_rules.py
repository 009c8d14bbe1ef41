"""Rules of operators that change rows and columns, against ONNX Runtime, over their modes and many sizes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fogconv.errors import ModelError
from fogconv.frontend.onnx.read import read
from fogconv.ir.graph import LayerGraph
from fogconv.ir.layers import Conv, Host, Interleave, Pool, Resample
from tests.frontend.onnx.test_rules import compared, node, numbers, saved
from tests.graph_reference import run_graph

COORDINATES = (
    "half_pixel",
    "pytorch_half_pixel",
    "half_pixel_symmetric",
    "asymmetric",
    "align_corners",
    "tf_half_pixel_for_nn",
    "tf_crop_and_resize",
)
NEAREST = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
any_file = settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])


def kinds(graph: LayerGraph) -> list[str]:
    return [type(layer).__name__ for layer in graph.layers]


def resized(path: Path, size: tuple[int, int], constants: dict[str, Any], **attributes: Any) -> LayerGraph:
    inputs = ["x", "roi", "scales", "sizes"]
    names = [name if name in constants or name == "x" else "" for name in inputs]
    while not names[-1]:
        names.pop()
    return compared(saved(path, [node("Resize", names, **attributes)], constants, shape=(2, 6, *size), opset=19))


@any_file
@given(
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.tuples(st.integers(1, 70), st.integers(1, 70)),
    st.sampled_from(COORDINATES),
    st.sampled_from(["linear", "cubic", *NEAREST]),
)
def test_a_resize_to_any_size_is_onnx_runtimes(
    tmp_path: Path, size: tuple[int, int], target: tuple[int, int], coordinates: str, mode: str
) -> None:
    constants: dict[str, Any] = {"sizes": np.array([2, 6, *target])}
    attributes = {"mode": mode if mode in ("linear", "cubic") else "nearest", "coordinate_transformation_mode": coordinates}
    if mode in NEAREST:
        attributes["nearest_mode"] = mode
    if coordinates == "tf_crop_and_resize":
        constants["roi"] = np.array([0, 0, 0.2, -0.1, 1, 1, 0.9, 1.2], np.float32)
        attributes["extrapolation_value"] = 2.5
        if mode == "cubic":
            return  # ONNX Runtime extrapolates these by neighbours that it has not
    graph = resized(tmp_path / "m.onnx", size, constants, **attributes)
    hosted = bool([layer for layer in graph.layers if isinstance(layer, Host)])
    assert hosted == (coordinates == "half_pixel_symmetric" and mode in NEAREST and size != target)


@any_file
@given(
    st.tuples(st.integers(2, 40), st.integers(2, 40)),
    st.tuples(st.floats(0.5, 3, width=32), st.floats(0.5, 3, width=32)),
    st.sampled_from(COORDINATES[:-1]),
    st.sampled_from(["linear", "nearest"]),
)
def test_a_resize_by_any_scale_is_onnx_runtimes(
    tmp_path: Path, size: tuple[int, int], scales: tuple[float, float], coordinates: str, mode: str
) -> None:
    constants = {"scales": np.array([1, 1, *scales], np.float32)}
    attributes = {"mode": mode, "coordinate_transformation_mode": coordinates}
    exact = [math.floor(side * scale) for side, scale in zip(size, scales, strict=True)]
    if exact != [int(np.float32(side) * np.float32(scale)) for side, scale in zip(size, scales, strict=True)]:
        with pytest.raises(ModelError, match=r"\(Resize\) makes .* give it sizes"):
            resized(tmp_path / "m.onnx", size, constants, **attributes)
        return
    resized(tmp_path / "m.onnx", size, constants, **attributes)


def test_a_size_on_which_runtime_and_shape_inference_disagree_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"makes \(2, 6, 2, 57\) in ONNX Runtime and \(2, 6, 2, 56\)"):
        resized(tmp_path / "m.onnx", (2, 30), {"scales": np.array([1, 1, 1, 1.9], np.float32)}, mode="linear")


@pytest.mark.parametrize("opset", [9, 10])
@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize("scales", [(2, 2), (1.5, 2.7), (0.6, 0.5)])
def test_the_first_opsets_upsampling_is_onnx_runtimes(
    opset: int, mode: str, scales: tuple[float, float], tmp_path: Path
) -> None:
    if opset == 9 and min(scales) < 1:
        return
    nodes = [node("Upsample" if opset == 9 else "Resize", ["x", "scales"], mode=mode)]
    path = saved(tmp_path / "m.onnx", nodes, {"scales": np.array([1, 1, *scales], np.float32)}, opset=opset)
    assert kinds(compared(path)) == ["Resample"]


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_transposed_conv_is_onnx_runtimes(tmp_path: Path, data: st.DataObject) -> None:
    def two(least: int, most: int) -> list[int]:
        return [data.draw(st.integers(least, most)) for _ in range(2)]

    groups = data.draw(st.sampled_from([1, 1, 2, 6]))
    kernel, strides, dilations = two(1, 5), two(1, 3), two(1, 2)
    attributes: dict[str, Any] = {"strides": strides, "dilations": dilations, "group": groups}
    attributes["output_padding"] = [data.draw(st.integers(0, stride - 1)) for stride in strides]
    size = two(3, 7)
    if data.draw(st.booleans()):
        reach = [(k - 1) * d for k, d in zip(kernel, dilations, strict=True)]
        pads = [data.draw(st.integers(0, most)) for most in reach * 2]
        attributes["pads"] = pads
        full = [(n - 1) * s + r + 1 for n, s, r in zip(size, strides, reach, strict=True)]
        if min(f - pads[i] - pads[i + 2] for i, f in enumerate(full)) < 1:
            return
    constants = {"w": numbers(6, data.draw(st.integers(1, 3)), *kernel)}
    if data.draw(st.booleans()):
        constants["b"] = numbers(constants["w"].shape[1] * groups)
    path = saved(
        tmp_path / "m.onnx", [node("ConvTranspose", ["x", *constants], **attributes)], constants, shape=(2, 6, *size)
    )
    assert not [layer for layer in compared(path).layers if isinstance(layer, Host)]


@pytest.mark.parametrize("auto_pad", ["SAME_UPPER", "SAME_LOWER", "VALID"])
def test_a_transposed_conv_pads_by_itself(auto_pad: str, tmp_path: Path) -> None:
    nodes = [node("ConvTranspose", ["x", "w"], strides=[2, 3], auto_pad=auto_pad)]
    graph = compared(saved(tmp_path / "m.onnx", nodes, {"w": numbers(6, 5, 3, 4)}))
    assert kinds(graph) == ["Conv"] * 6 + ["Interleave"]


@pytest.mark.parametrize("filters", [5, 2])
def test_a_transposed_conv_takes_in_its_norm_and_activation(filters: int, tmp_path: Path) -> None:
    """By four convs, or by one where the phases' channels have room in one block."""
    nodes = [
        node("ConvTranspose", ["x", "w", "c"], "a", strides=[2, 2]),
        node("BatchNormalization", ["a", "s", "s", "s", "v"], "b"),
        node("Relu", ["b"]),
    ]
    constants = {
        "w": numbers(6, filters, 3, 2),
        "c": numbers(filters),
        "s": numbers(filters),
        "v": 1 + numbers(filters) ** 2,
    }
    graph = compared(saved(tmp_path / "m.onnx", nodes, constants))
    assert kinds(graph) == (["Conv"] * 4 if filters == 5 else ["Conv"] + ["Slice"] * 4) + ["Interleave"]
    assert {layer.activation for layer in graph.layers if isinstance(layer, Conv)} == {"relu"}
    assert isinstance(graph.layers[-1], Interleave)


SLICES = {
    "every second row from the end": ([7, 0], [-99, 10], [2, 3], [-2, 3]),
    "channels and rows": ([1, 2], [5, 8], [1, 2], [1, 4]),
    "a window": ([1, -6], [-1, 9], [2, 3], [1, 1]),
}


@pytest.mark.parametrize("name", SLICES)
def test_slices_with_steps(name: str, tmp_path: Path) -> None:
    constants = dict(zip("sedt", map(np.array, SLICES[name]), strict=True))
    graph = compared(saved(tmp_path / "m.onnx", [node("Slice", ["x", *"sedt"])], constants))
    assert kinds(graph) in (["Resample"], ["Slice", "Resample"])


def test_focus_and_its_conv_are_one_conv(tmp_path: Path) -> None:
    """As YOLOX begins."""
    nodes, constants = [], {"end": np.array([99]), "two": np.array([2]), "w": numbers(4, 24, 3, 3)}
    constants |= {"rows": np.array([2]), "columns": np.array([3]), "zero": np.array([0]), "one": np.array([1])}
    for number, (i, j) in enumerate([("zero", "zero"), ("one", "zero"), ("zero", "one"), ("one", "one")]):
        nodes.append(node("Slice", ["x", i, "end", "rows", "two"], f"r{number}"))
        nodes.append(node("Slice", [f"r{number}", j, "end", "columns", "two"], f"c{number}"))
    nodes += [
        node("Concat", [f"c{number}" for number in range(4)], "f", axis=1),
        node("Conv", ["f", "w"], pads=[1, 1, 1, 1]),
    ]
    graph = compared(saved(tmp_path / "m.onnx", nodes, constants))
    assert kinds(graph) == ["Conv"]
    assert isinstance(conv := graph.layers[0], Conv)
    assert (conv.spec.kernel, conv.spec.stride, conv.spec.padding) == ((6, 6), (2, 2), (2, 2, 2, 2))


@pytest.mark.parametrize("mode", ["constant", "reflect", "edge", "wrap"])
@pytest.mark.parametrize("pads", [[2, 0, 1, 3], [-2, 1, 0, 3]])
def test_every_kind_of_padding(mode: str, pads: list[int], tmp_path: Path) -> None:
    if mode == "wrap" and min(pads) < 0:
        return
    top, left, bottom, right = pads
    constants = {"p": np.array([0, 0, top, left, 0, 0, bottom, right]), "v": np.float32(1.5)}
    graph = compared(saved(tmp_path / "m.onnx", [node("Pad", ["x", "p", "v"], mode=mode)], constants, opset=19))
    assert kinds(graph) == ["Resample"]


def test_padding_by_axes(tmp_path: Path) -> None:
    constants = {"p": np.array([1, 2, 3, 4]), "v": np.float32(0), "a": np.array([3, -2])}
    graph = compared(saved(tmp_path / "m.onnx", [node("Pad", ["x", "p", "v", "a"])], constants, opset=18))
    assert kinds(graph) == ["Resample"]


POOLS: dict[str, tuple[str, float, dict[str, Any], list[str]]] = {
    "−∞ before a max pool": ("MaxPool", -math.inf, {}, ["Pool"]),
    "zeros before a max pool": ("MaxPool", 0.0, {}, ["Resample", "Pool"]),
    "zeros before an average pool": ("AveragePool", 0.0, {}, ["Pool"]),
    "zeros before one that pads and counts": ("AveragePool", 0.0, {"pads": [1, 1, 1, 1], "count_include_pad": 1}, ["Pool"]),
    "zeros before one that pads and does not": ("AveragePool", 0.0, {"pads": [1, 1, 1, 1]}, ["Resample", "Pool"]),
}


@pytest.mark.parametrize("name", POOLS)
def test_a_pad_before_a_pool_is_the_pools_where_that_is_the_same(name: str, tmp_path: Path) -> None:
    op, fill, attributes, expected = POOLS[name]
    nodes = [node("Pad", ["x", "p", "v"], "a"), node(op, ["a"], kernel_shape=[3, 2], strides=[2, 1], **attributes)]
    constants = {"p": np.array([0, 0, 1, 0, 0, 0, 2, 1]), "v": np.float32(fill)}
    graph = compared(saved(tmp_path / "m.onnx", nodes, constants))
    assert kinds(graph) == expected


@pytest.mark.parametrize("op", ["GlobalMaxPool", "ReduceMax"])
def test_a_global_maximum_is_taken_along_the_columns_first(op: str, tmp_path: Path) -> None:
    attributes = {"axes": [2, 3], "keepdims": 0} if op == "ReduceMax" else {}
    graph = compared(saved(tmp_path / "m.onnx", [node(op, ["x"], **attributes)], {}))
    assert [layer.spec.kernel for layer in graph.layers if isinstance(layer, Pool)] == [(1, 10), (8, 1)]


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
def test_depth_becomes_space(mode: str, tmp_path: Path) -> None:
    nodes = [node("Conv", ["x", "w"], "a"), node("DepthToSpace", ["a"], blocksize=2, mode=mode)]
    graph = compared(saved(tmp_path / "m.onnx", nodes, {"w": numbers(12, 6, 1, 1)}))
    assert not [layer for layer in graph.layers if isinstance(layer, Host)]


def test_space_becomes_depth(tmp_path: Path) -> None:
    graph = compared(saved(tmp_path / "m.onnx", [node("SpaceToDepth", ["x"], blocksize=2)], {}))
    assert kinds(graph) == ["Resample"] * 4 + ["Concat"]


@pytest.mark.parametrize("antialias", [1])
def test_what_is_not_claimed_stays_on_the_master(antialias: int, tmp_path: Path) -> None:
    constants = {"sizes": np.array([2, 6, 4, 4])}
    graph = resized(tmp_path / "m.onnx", (8, 10), constants, mode="linear", antialias=antialias)
    assert kinds(graph) == ["Host"]
    assert Resample.__name__ not in kinds(graph)


SEQUENCES: dict[str, tuple[str, dict[str, Any], dict[str, np.ndarray]]] = {
    "a conv": ("Conv", {"strides": [2], "pads": [1, 2]}, {"w": numbers(4, 6, 3), "b": numbers(4)}),
    "a conv that pads by itself": ("Conv", {"auto_pad": "SAME_LOWER", "strides": [2]}, {"w": numbers(4, 6, 4)}),
    "a transposed conv": ("ConvTranspose", {"strides": [2], "pads": [1, 0], "output_padding": [1]}, {"w": numbers(6, 4, 3)}),
    "a pad": ("Pad", {"mode": "reflect"}, {"p": np.array([0, 0, 3, 0, 0, 1])}),
    "a max pool": ("MaxPool", {"kernel_shape": [3], "strides": [2], "pads": [1, 1]}, {}),
    "the mean": ("GlobalAveragePool", {}, {}),
    "the maximum": ("GlobalMaxPool", {}, {}),
}


@pytest.mark.parametrize("name", SEQUENCES)
def test_sequences_are_maps_of_one_row(name: str, tmp_path: Path) -> None:
    op, attributes, constants = SEQUENCES[name]
    path = saved(tmp_path / "m.onnx", [node(op, ["x", *constants], **attributes)], constants, shape=(2, 6, 25))
    graph = read(path, batch=2)
    assert not [layer for layer in graph.layers if isinstance(layer, Host)]
    assert {tensor.height for tensor in graph.tensors} == {1}
    x = numbers(2, 6, 25)
    [expected] = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, {"x": x})
    np.testing.assert_allclose(run_graph(graph, x), expected, rtol=1e-5, atol=2e-5)
