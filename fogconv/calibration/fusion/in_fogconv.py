"""Chains of operators as fogconv computes them: layers that its frontend fuses, and its kernels on one thread."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from fogconv.calibration.fusion.operators import CHANNELS, CLIP, KERNEL, PADDING, STRIDE, Chain, Operator, sides
from fogconv.cluster.executor.executors import executor
from fogconv.cluster.executor.microbenchmark import NoMailbox
from fogconv.frontend.fusion import fuse
from fogconv.ir import steps as ir
from fogconv.ir.geometry import ConvSpec, PoolSpec
from fogconv.ir.graph import LayerGraph, Port
from fogconv.ir.layers import Add, Affine, Conv, Elementwise, GlobalPool, Layer, Pool, Tensor
from fogconv.ir.plan import Plan, at_home
from fogconv.lowering.lower import lower

Draft = dict[str, NDArray[np.float64]]


class Fogconv:
    """The runtime. What counts are the steps between taking the inputs and giving the output."""

    name = "fogconv"

    def chain(self, operators: Chain, side: int) -> Callable[[], float]:
        graph = fused_graph(operators, side)
        plan = Plan(graph.name, 1, "local", tuple(at_home(graph, layer) for layer in graph.layers))
        lowered = lower(graph, plan)
        [program] = lowered.programs
        executable = executor()(program, lowered.weights, threads=1)
        random = np.random.default_rng(0)
        inputs = [random.standard_normal(port.shape, np.float32) for port in graph.inputs if port.shape is not None]
        counted = np.array([not isinstance(step, ir.Input | ir.Output) for step in program.steps])
        mailbox = NoMailbox()

        def run() -> float:
            executable.run(mailbox, inputs)
            begins, ends = executable.times.T
            return float((ends - begins)[counted].sum()) * 1e-9

        return run


def fused_graph(operators: Chain, side: int) -> LayerGraph:
    """The chain as a graph, fused as a model's is."""
    heights = sides(operators, side)
    tensors = [Tensor("x", 1, CHANNELS, side, side)]
    inputs = [0]
    draft: Draft = {}
    layers: list[Layer] = []
    source = 0
    for operator, height, after in zip(operators, heights, heights[1:], strict=False):
        other = None
        if operator == "add":
            tensors.append(Tensor(f"y{len(tensors)}", 1, CHANNELS, height, height))
            other = len(tensors) - 1
            inputs.append(other)
        target = len(tensors)
        tensors.append(Tensor(f"t{target}", 1, CHANNELS, after, after))
        layers.append(_layer(operator, source, target, other, height, draft))
        source = target
    kept, folded = fuse(layers, dict(draft), [source])
    weights = {key: np.asarray(each, np.float32) for key, each in folded.items()}
    ports = tuple(Port(tensors[number].name, number, tensors[number].shape) for number in inputs)
    out = (Port("output", source, tensors[source].shape),)
    return LayerGraph("+".join(operators), tuple(tensors), tuple(kept), ports, out, weights)


def _layer(operator: Operator, source: int, target: int, other: int | None, height: int, draft: Draft) -> Layer:
    name = f"{operator} {target}"
    size, stride, pad = (table.get(operator, usual) for table, usual in ((KERNEL, 1), (STRIDE, 1), (PADDING, 0)))
    window, step, around = (size, size), (stride, stride), (pad, pad, pad, pad)
    match operator:
        case "conv" | "depthwise":
            groups = CHANNELS if operator == "depthwise" else 1
            spec = ConvSpec(CHANNELS, CHANNELS, height, height, window, step, around, groups=groups)
            draft[f"w{target}"] = np.random.default_rng(target).standard_normal(spec.weight_shape) / 8
            draft[f"b{target}"] = np.zeros(CHANNELS)
            return Conv(name, source, target, spec, f"w{target}", f"b{target}")
        case "batchnorm":
            draft[f"s{target}"], draft[f"h{target}"] = np.full(CHANNELS, 0.5), np.full(CHANNELS, 0.25)
            return Affine(name, source, target, f"s{target}", f"h{target}")
        case "add":
            assert other is not None
            return Add(name, (source, other), target)
        case "maxpool" | "avgpool":
            kind = operator.removesuffix("pool")
            return Pool(name, source, target, PoolSpec(kind, CHANNELS, height, height, window, step, around))
        case "globalpool":
            return GlobalPool(name, source, target)
        case "clip":
            return Elementwise(name, "clip", (source,), target, CLIP)
        case _:
            return Elementwise(name, operator, (source,), target)
