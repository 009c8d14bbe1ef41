"""Models that others quantised: conversions around each operator (QDQ), and convs that are written with both in one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper

import fogconv
from fogconv.frontend.onnx.read import read
from fogconv.hardware.topology import Topology
from fogconv.ir.arrays import Array
from fogconv.ir.graph import LayerGraph
from fogconv.ir.layers import Conv, Host

SHAPE = (1, 3, 12, 10)
Arrays = dict[str, np.ndarray]


def random(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def scales(name: str, scale: float, zero: int, kind: str) -> Arrays:
    return {f"{name}.s": np.float32(scale), f"{name}.z": np.array(zero, kind)}


def q(x: str, y: str, by: str) -> NodeProto:
    return helper.make_node("QuantizeLinear", [x, f"{by}.s", f"{by}.z"], [y], f"q.{y}")


def dq(x: str, y: str, by: str, **attributes: int) -> NodeProto:
    return helper.make_node("DequantizeLinear", [x, f"{by}.s", f"{by}.z"], [y], f"dq.{y}", **attributes)


def weights(name: str, filters: int, channels: int, size: int, kind: str, per_channel: bool, reads: float) -> Arrays:
    """A conv's weight and bias with their scales and zeros: of each filter, or one."""
    draw = random(len(name) + filters)
    low, high, zero = (-127, 128, 0) if kind == "int8" else (0, 256, 120)
    count = filters if per_channel else 1
    scale = draw.uniform(0.002, 0.01, count).astype(np.float32)
    shape = (count,) if per_channel else ()
    return {
        name: draw.integers(low, high, (filters, channels, size, size)).astype(kind),
        f"{name}.s": scale.reshape(shape),
        f"{name}.z": np.full(shape, zero, kind),
        f"{name}.b": draw.integers(-900, 900, filters).astype(np.int32),
        f"{name}.bs": (scale * np.float32(reads)).reshape(shape),
        f"{name}.bz": np.zeros(shape, np.int32),
    }


def around_each_operator(kind: str, weight_kind: str, per_channel: bool) -> tuple[list[NodeProto], Arrays]:
    """conv, relu, pool, two convs that are added, concatenated with one of them, averaged."""
    shift = 0 if kind == "uint8" else -128
    maps = {"x": (0.02, 128), "a": (0.015, 0), "b": (0.03, 131), "c": (0.025, 120), "d": (0.04, 127), "e": (0.04, 127)}
    arrays: Arrays = {}
    for name, (scale, zero) in maps.items():
        arrays |= scales(name, scale, zero + shift, kind)
    axis = {"axis": 0} if per_channel else {}
    nodes = [q("input", "x.q", "x"), dq("x.q", "x.f", "x")]

    def conv(name: str, x: str, channels: int, size: int, y: str, **attributes: object) -> None:
        w = f"w.{name}"
        arrays.update(weights(w, 8, channels, size, weight_kind, per_channel, maps[x][0]))
        nodes.append(dq(w, f"{w}.f", w, **axis))
        nodes.append(helper.make_node("DequantizeLinear", [f"{w}.b", f"{w}.bs", f"{w}.bz"], [f"{w}.bf"], **axis))
        nodes.append(helper.make_node("Conv", [f"{x}.f", f"{w}.f", f"{w}.bf"], [y], f"conv.{name}", **attributes))

    conv("first", "x", 3, 3, "a.c", pads=[1] * 4)
    nodes += [helper.make_node("Relu", ["a.c"], ["a.r"]), q("a.r", "a.q", "a"), dq("a.q", "a.1", "a")]
    nodes += [helper.make_node("MaxPool", ["a.1"], ["a.p"], kernel_shape=[2, 2], strides=[2, 2])]
    nodes += [q("a.p", "a.pq", "a"), dq("a.pq", "a.f", "a")]
    conv("left", "a", 8, 3, "b.c", pads=[1] * 4)
    nodes += [q("b.c", "b.q", "b"), dq("b.q", "b.f", "b")]
    conv("right", "a", 8, 1, "c.c")
    nodes += [q("c.c", "c.q", "c"), dq("c.q", "c.f", "c")]
    nodes += [helper.make_node("Add", ["b.f", "c.f"], ["d.sum"]), q("d.sum", "d.q", "d"), dq("d.q", "d.f", "d")]
    nodes += [helper.make_node("Concat", ["d.f", "b.f"], ["e.c"], axis=1), q("e.c", "e.q", "e"), dq("e.q", "e.f", "e")]
    return nodes, arrays | {"last": np.array("e.f")}


def in_one_operator(kind: str, weight_kind: str, per_channel: bool) -> tuple[list[NodeProto], Arrays]:
    """Convs that read and write 8 bits, and a pool between them."""
    shift = 0 if kind == "uint8" else -128
    arrays = (
        scales("x", 0.02, 128 + shift, kind) | scales("a", 0.02, 110 + shift, kind) | scales("b", 0.05, 131 + shift, kind)
    )
    nodes = [q("input", "x.q", "x")]
    for name, x, channels, made, attributes in (
        ("first", "x", 3, "a", {"pads": [1] * 4}),
        ("second", "a", 8, "b", {"pads": [1] * 4, "strides": [2, 1]}),
    ):
        w = f"w.{name}"
        arrays |= weights(w, 8, channels, 3, weight_kind, per_channel, float(arrays[f"{x}.s"]))
        inputs = [f"{x}.p" if x == "a" else f"{x}.q", f"{x}.s", f"{x}.z", w, f"{w}.s", f"{w}.z"]
        inputs += [f"{made}.s", f"{made}.z", f"{w}.b"]
        nodes.append(helper.make_node("QLinearConv", inputs, [f"{made}.q"], f"conv.{name}", **attributes))
        if made == "a":
            nodes.append(helper.make_node("MaxPool", ["a.q"], ["a.p"], kernel_shape=[3, 3], strides=[1, 1], pads=[1] * 4))
    return [*nodes, dq("b.q", "b.f", "b")], arrays | {"last": np.array("b.f")}


NETS = {"around": around_each_operator, "in one": in_one_operator}


def written(nodes: list[NodeProto], arrays: Arrays, path: Path) -> Path:
    last = str(arrays["last"])
    names = {each for node in nodes for each in node.input}
    constants = [numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items() if name in names]
    ends = [helper.make_tensor_value_info("input", TensorProto.FLOAT, SHAPE)]
    graph = helper.make_graph(nodes, "net", ends, [helper.make_tensor_value_info(last, TensorProto.FLOAT, None)], constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def of_onnx_runtime(path: Path, x: Array) -> Array:
    """As it is written: what it fuses would round elsewhere."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"input": x})[0])


def on_bytes(graph: LayerGraph) -> bool:
    """Whether every conv reads bytes."""
    assert not any(isinstance(layer, Host) for layer in graph.layers)
    convs = [layer for layer in graph.layers if isinstance(layer, Conv)]
    return bool(convs) and all(graph.tensors[conv.source].precision.quantized for conv in convs)


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("weight_kind", ["int8", "uint8"])
@pytest.mark.parametrize("kind", ["uint8", "int8"])
@pytest.mark.parametrize("net", list(NETS))
def test_a_model_of_others_computes_what_onnx_runtime_does(
    net: str, kind: str, weight_kind: str, per_channel: bool, tmp_path: Path
) -> None:
    if net == "in one" and weight_kind == "uint8" and (kind == "int8" or per_channel):
        pytest.skip("ONNX Runtime computes no such conv")
    nodes, arrays = NETS[net](kind, weight_kind, per_channel)
    path = written(nodes, arrays, tmp_path / "net.onnx")
    graph = read(path)
    assert on_bytes(graph) is (weight_kind == "int8"), "weights that are not symmetric are computed in fp32"
    x = random(1).normal(0, 1, SHAPE).astype(np.float32)
    with fogconv.compile(graph, "inproc://0", topology=Topology.uniform(1, 1e10, 1e9, 1e-4)) as engine:
        ours = np.asarray(engine(x))
    theirs = of_onnx_runtime(path, x)
    steps = np.abs(ours - theirs) / arrays["e.s" if net == "around" else "b.s"]
    # A sum that lies between two numbers may be rounded the other way in fp32.
    assert steps.max() < 2.5 and (steps > 0.5).mean() < 0.02
    assert np.abs(theirs).max() > 1 and len(np.unique(theirs)) > 20
