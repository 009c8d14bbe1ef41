"""Small random LayerGraphs for property tests: convs of any geometry, branches, sums, concatenations, gates."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from fogconv.ir.geometry import ConvSpec, PoolSpec, Taps
from fogconv.ir.graph import LayerGraph, Port
from fogconv.ir.layers import (
    AcrossChannels,
    Add,
    Affine,
    Concat,
    Conv,
    Elementwise,
    Gate,
    GlobalPool,
    Host,
    Interleave,
    Layer,
    Normalize,
    Pool,
    Resample,
    Shuffle,
    Slice,
    Squares,
    Tensor,
)

ACTIVATIONS = (
    "relu6", "silu", "hardswish", "sigmoid", "hardsigmoid", "leaky_relu(0.25)", "clip(-0.5, 1.5)", "mish", "gelu(0.5)",
)  # fmt: skip

ACROSS = (("softmax", ()), ("log_softmax", ()), ("layer_norm", (0.1,)), ("lrn", (5.0, 0.3, 0.75, 1.0)))


def spread(one: Tensor, other: Tensor) -> bool:
    """Whether two maps can be combined element by element where either may be of length 1 along an axis."""
    return all(1 in pair or pair[0] == pair[1] for pair in zip(one.shape[1:], other.shape[1:], strict=True))


class _Draft:
    def __init__(self, draw: st.DrawFn) -> None:
        self.draw = draw
        self.batch = draw(st.integers(1, 2))
        self.generator = np.random.default_rng(draw(st.integers(0, 2**20)))
        self.tensors: list[Tensor] = []
        self.layers: list[Layer] = []
        self.weights: dict[str, NDArray[Any]] = {}
        self.kept: list[Port] = []

    def tensor(self, channels: int, height: int, width: int) -> int:
        self.tensors.append(Tensor(f"t{len(self.tensors)}", self.batch, channels, height, width))
        return len(self.tensors) - 1

    def weight(self, *shape: int) -> str:
        key = f"w{len(self.weights)}"
        # Values that float32 holds exactly, so that the float64 references see the same ones.
        self.weights[key] = self.generator.standard_normal(shape).astype(np.float32).astype(np.float64)
        return key

    def activation(self) -> str | None:
        return self.draw(st.sampled_from([None, "relu", *ACTIVATIONS]))

    def like(self, number: int) -> list[int]:
        """The tensors of the same shape."""
        return [i for i, tensor in enumerate(self.tensors) if tensor.shape == self.tensors[number].shape]

    def conv(self, source: int) -> int:
        draw, x = self.draw, self.tensors[source]
        groups = draw(st.sampled_from([1, 1, 1] + [g for g in (2, 4, x.channels) if x.channels % g == 0]))
        kernel = (draw(st.integers(1, min(3, x.height))), draw(st.integers(1, min(3, x.width))))
        padding = tuple(draw(st.integers(0, 2)) for _ in range(4))
        stride = tuple(draw(st.integers(1, 2)) for _ in range(2))
        outs = groups * draw(st.sampled_from([1, 2, 5, 16]) if groups < 8 else st.just(1))
        spec = ConvSpec(x.channels, outs, x.height, x.width, kernel, stride, padding, (1, 1), groups, self.batch)  # type: ignore[arg-type]
        target = self.tensor(outs, spec.out_height, spec.out_width)
        same = [number for number in self.like(target) if number != target]
        residual = draw(st.sampled_from([None, *same]))
        bias = self.weight(outs) if draw(st.booleans()) else None
        weight = self.weight(*spec.weight_shape)
        self.layers.append(Conv(f"conv{target}", source, target, spec, weight, bias, self.activation(), residual))
        return target

    def same_conv(self, source: int) -> int:
        x = self.tensors[source]
        spec = ConvSpec(x.channels, x.channels, x.height, x.width, (3, 3), padding=(1, 1, 1, 1), batch=self.batch)
        target = self.tensor(x.channels, x.height, x.width)
        residual = self.draw(st.sampled_from([None, source]))
        weight = self.weight(*spec.weight_shape)
        self.layers.append(Conv(f"conv{target}", source, target, spec, weight, None, self.activation(), residual))
        return target

    def pool(self, source: int) -> int:
        x, draw = self.tensors[source], self.draw
        kernel = (min(x.height, draw(st.integers(1, 3))), min(x.width, draw(st.integers(1, 3))))
        padding = (kernel[0] // 2, kernel[0] // 2, kernel[1] // 2, kernel[1] // 2) if draw(st.booleans()) else (0, 0, 0, 0)
        kind = draw(st.sampled_from(["max", "avg"]))
        ceil, counted = draw(st.booleans()), draw(st.booleans())
        spec = PoolSpec(
            kind, x.channels, x.height, x.width, kernel, (2, 2), padding, (1, 1), ceil, counted, None, self.batch
        )
        target = self.tensor(x.channels, spec.out_height, spec.out_width)
        self.layers.append(Pool(f"pool{target}", source, target, spec))
        return target

    def add(self, source: int) -> int:
        other = self.draw(st.sampled_from(self.like(source)))
        target = self.tensor(*self.tensors[source].shape[1:])
        self.layers.append(Add(f"add{target}", (source, other), target, self.activation()))
        return target

    def affine(self, source: int) -> int:
        channels = self.tensors[source].channels
        target = self.tensor(*self.tensors[source].shape[1:])
        scale, shift = self.weight(channels), self.weight(channels)
        self.layers.append(Affine(f"affine{target}", source, target, scale, shift, self.activation()))
        return target

    def elementwise(self, source: int) -> int:
        target = self.tensor(*self.tensors[source].shape[1:])
        self.layers.append(Elementwise(f"leaky{target}", "leaky_relu", (source,), target, (0.125,)))
        return target

    def combined(self, source: int) -> int:
        """Two maps, or a map and a constant, of which either may be of length 1 along some axes."""
        x, draw = self.tensors[source], self.draw
        op = draw(st.sampled_from(["maximum", "minimum", "add", "subtract", "multiply", "prelu"]))
        fitting = [i for i, t in enumerate(self.tensors) if spread(t, x)]
        other = draw(st.sampled_from([*fitting, None]))
        sizes = [draw(st.sampled_from([1, n])) for n in x.shape[1:]]
        if other is None:
            target = self.tensor(*x.shape[1:])
            self.layers.append(Elementwise(f"{op}{target}", op, (source,), target, (), self.weight(*sizes)))
            return target
        target = self.tensor(*(max(pair) for pair in zip(x.shape[1:], self.tensors[other].shape[1:], strict=True)))
        sources = (source, other) if draw(st.booleans()) else (other, source)
        self.layers.append(Elementwise(f"{op}{target}", op, sources, target))
        return target

    def gate(self, source: int) -> int:
        channels = self.tensors[source].channels
        mean = self.tensor(channels, 1, 1)
        self.layers.append(GlobalPool(f"mean{mean}", source, mean))
        spec = ConvSpec(channels, channels, 1, 1, (1, 1), batch=self.batch)
        gate = self.tensor(channels, 1, 1)
        self.layers.append(Conv(f"gate{gate}", mean, gate, spec, self.weight(*spec.weight_shape), None, "sigmoid"))
        target = self.tensor(*self.tensors[source].shape[1:])
        self.layers.append(Gate(f"gated{target}", source, gate, target))
        return target

    def norm(self, source: int) -> int:
        """Instance norm, group norm or layer norm, by two passes."""
        shape = self.tensors[source].shape[1:]
        groups = self.draw(st.sampled_from([g for g in (1, 3, 4, shape[0]) if shape[0] % g == 0]))
        mean, squares = self.tensor(shape[0], 1, 1), self.tensor(shape[0], 1, 1)
        target = self.tensor(*shape)
        scale, shift = self.weight(shape[0]), self.draw(st.sampled_from([None, self.weight(shape[0])]))
        self.layers.append(GlobalPool(f"mean{mean}", source, mean))
        self.layers.append(Squares(f"squares{squares}", source, mean, squares, groups))
        self.layers.append(
            Normalize(f"norm{target}", source, mean, squares, target, groups, 0.1, scale, shift, self.activation())
        )
        return target

    def across(self, source: int) -> int:
        target = self.tensor(*self.tensors[source].shape[1:])
        op, parameters = self.draw(st.sampled_from(ACROSS))
        weights = [self.weight(self.tensors[source].channels) if op == "layer_norm" else None for _ in range(2)]
        self.layers.append(AcrossChannels(f"{op}{target}", op, source, target, parameters, *weights))
        return target

    def concat(self, source: int) -> int:
        x = self.tensors[source]
        fitting = [i for i, t in enumerate(self.tensors) if (t.height, t.width) == (x.height, x.width)]
        sources = (source, *self.draw(st.lists(st.sampled_from(fitting), min_size=1, max_size=2)))
        target = self.tensor(sum(self.tensors[i].channels for i in sources), x.height, x.width)
        self.layers.append(Concat(f"concat{target}", sources, target))
        return target

    def slice(self, source: int) -> int:
        x = self.tensors[source]
        start = self.draw(st.integers(0, x.channels - 1))
        target = self.tensor(self.draw(st.integers(1, x.channels - start)), x.height, x.width)
        self.layers.append(Slice(f"slice{target}", source, target, start))
        return target

    def shuffle(self, source: int) -> int:
        x = self.tensors[source]
        groups = self.draw(st.sampled_from([g for g in (1, 2, 3, 4) if x.channels % g == 0]))
        target = self.tensor(x.channels, x.height, x.width)
        self.layers.append(Shuffle(f"shuffle{target}", source, target, groups))
        return target

    def taps(self, size: int) -> Taps:
        """A resize, a slice with steps, a flip, a padding: any taps with any weights."""
        draw, outputs = self.draw, self.draw(st.integers(1, 10))
        most = draw(st.integers(0, min(3, size)))
        # At most one side is padding, so that there is something in every graph.
        starts = [draw(st.integers(-1 if k else 0, size - max(most, 1))) for k in range(outputs)]
        if draw(st.booleans()):
            starts.sort()
        weights = [self.generator.standard_normal(most).astype(np.float32).tolist() for _ in starts] if most else []
        return Taps(size, tuple(starts), tuple(tuple(each) for each in weights))

    def resample(self, source: int) -> int:
        x = self.tensors[source]
        rows, columns = self.taps(x.height), self.taps(x.width)
        target = self.tensor(x.channels, len(rows.starts), len(columns.starts))
        self.layers.append(
            Resample(f"resample{target}", source, target, rows, columns, self.draw(st.sampled_from([0.0, 0.5])))
        )
        return target

    def interleave(self, source: int) -> int:
        factors = (self.draw(st.integers(1, 3)), self.draw(st.integers(1, 2)))
        x, count = self.tensors[source], factors[0] * factors[1]
        sources = tuple(self.draw(st.lists(st.sampled_from(self.like(source)), min_size=count, max_size=count)))
        height, width = x.height * factors[0], x.width * factors[1]
        cut = self.draw(st.integers(0, factors[0] - 1))
        target = self.tensor(x.channels, height - cut, width)
        self.layers.append(Interleave(f"interleave{target}", sources, target, factors))
        return target

    def host(self, source: int) -> int:
        target = self.tensor(*self.tensors[source].shape[1:])
        self.layers.append(Host(f"host{target}", (source,), (target,), lambda values, x: [np.ascontiguousarray(-2 * x)]))
        return target

    def head(self, source: int) -> int:
        x = self.tensors[source]
        spec = ConvSpec(x.channels, 5, x.height, x.width, (x.height, x.width), batch=self.batch)
        target = self.tensor(5, 1, 1)
        weight, bias = self.weight(*spec.weight_shape), self.weight(5)
        self.layers.append(Conv(f"head{target}", source, target, spec, weight, bias, linear=True))
        return target

    def host_value(self, source: int) -> int:
        """A result that is no map, kept by a host layer."""
        key = f"output {len(self.layers)}"

        def call(values: dict[str | int, Any], x: NDArray[Any]) -> list[NDArray[Any]]:
            values[key] = x.sum((2, 3))
            return []

        self.layers.append(Host(f"host:{key}", (source,), (), call))
        self.kept.append(Port(key, None, self.tensors[source].shape[:2], key))
        return source


def numbers_for(graph: LayerGraph, seed: int) -> list[NDArray[Any]]:
    """Inputs of a graph, in float64."""
    generator = np.random.default_rng(seed)
    return [generator.standard_normal(port.shape) for port in graph.inputs]


@st.composite
def graphs(draw: st.DrawFn) -> LayerGraph:
    draft = _Draft(draw)
    sides = draw(st.integers(3, 9)), draw(st.integers(3, 7))
    firsts = [
        draft.tensor(channels, *sides)
        for channels in draw(st.lists(st.sampled_from([1, 3, 16, 33]), min_size=1, max_size=2))
    ]
    x = firsts[0]
    kinds = [
        draft.conv, draft.conv, draft.same_conv, draft.same_conv, draft.pool, draft.add, draft.affine, draft.gate,
        draft.elementwise, draft.combined, draft.norm, draft.across, draft.concat, draft.slice, draft.shuffle, draft.host,
        draft.host_value, draft.resample, draft.interleave,
    ]  # fmt: skip
    for kind in draw(st.lists(st.sampled_from(kinds), min_size=1, max_size=7)):
        # Mostly a chain, now and then from an older tensor, so that branches stay alive.
        if draw(st.integers(0, 3)) == 0:
            x = draw(st.integers(0, len(draft.tensors) - 1))
        x = kind(x)
    if draw(st.booleans()):
        x = draft.head(x)
    # The last map, and now and then others: inner ones, inputs, the same one again, and what host layers keep.
    more = draw(st.lists(st.integers(0, len(draft.tensors) - 1), max_size=3)) if draw(st.booleans()) else []
    outputs = [Port(f"output{place}", tensor, draft.tensors[tensor].shape) for place, tensor in enumerate([x, *more])]
    outputs += draft.kept
    inputs = tuple(Port(f"input{tensor}", tensor, draft.tensors[tensor].shape) for tensor in firsts)
    structure = tuple(range(len(outputs))) if len(outputs) > 1 else 0
    tensors, layers = tuple(draft.tensors), tuple(draft.layers)
    return LayerGraph("random", tensors, layers, inputs, tuple(outputs), draft.weights, structure)
