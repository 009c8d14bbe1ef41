"""Precision: what a user asks for, and the graph that does it.

fp32   the model as it is: nothing is rounded that its maker did not round
fp16   maps and weights rounded to 16 bits, sums in fp32; with pictures, so that errors cancel
bf16   the same, with the range of fp32 and three bits less
int8   on bytes wherever workers have a form for it, and a layer's own error is within the tolerance
auto   the same, with a tolerance of `AUTO_TOLERANCE`
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from fogconv.errors import InputError, unknown
from fogconv.frontend.quantized import absorb
from fogconv.frontend.quantized.integers import Integers
from fogconv.ir.arrays import Array
from fogconv.ir.graph import LayerGraph
from fogconv.ir.layers import Conv, Layer
from fogconv.ir.precision.elements import HALVES, Half
from fogconv.ir.precision.scale import uint8
from fogconv.quantization.halves import halves_for_shapes, in_halves
from fogconv.quantization.marking import marked, on_bytes, share_in
from fogconv.quantization.plain_form import plain_form
from fogconv.quantization.quantize import TOLERANCE, quantized

Precision = Literal["fp32", "fp16", "bf16", "int8", "auto"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)

AUTO_TOLERANCE = 0.03
"""Of a layer's own noise ÷ signal: 30 dB."""


def in_precision(
    graph: LayerGraph,
    precision: str,
    batches: Sequence[Sequence[Array]] | None,
    *,
    tolerance: float | None = None,
    threads: int = 1,
) -> LayerGraph:
    """The graph in a precision; ``batches`` are inputs to calibrate with. 16 bits need none, but lose less with some. A
    model that is quantised already stays as it is.

    Raises InputError for an unknown precision, where inputs are missing, and for 16 bits of a model that is quantised;
    ModelError for a model that can't be quantised.
    """
    half = _half(graph, precision)
    if half is not None:
        return in_halves(graph, half, batches or (), threads=threads)
    if precision == "fp32" or is_quantized(graph):
        return graph
    if not batches:
        raise InputError(
            f"{graph.name} is in fp32; to run it in {precision}, give pictures to measure its values with: --calibrate "
            "FOLDER, or quantise it once with `fogconv quantize`"
        )
    usual = AUTO_TOLERANCE if precision == "auto" else TOLERANCE
    return quantized(graph, batches, tolerance=usual if tolerance is None else tolerance, threads=threads).graph


def for_shapes(graph: LayerGraph, precision: str) -> LayerGraph:
    """A graph of the same layers and sizes as in that precision, with arbitrary weights and scales: for plans, whose times
    do not depend on values. Raises InputError for an unknown precision, and for 16 bits of a model that is quantised."""
    half = _half(graph, precision)
    if half is not None:
        return halves_for_shapes(graph, half)
    if precision == "fp32" or is_quantized(graph):
        return graph
    plain = plain_form(graph)
    names = on_bytes(plain, ())
    if not names:
        return graph
    integers = {layer.name: _any(layer, at) for at, layer in enumerate(plain.layers) if isinstance(layer, Conv)}
    ranges = dict.fromkeys(range(len(plain.tensors)), uint8(-1.0, 1.0))
    biases = {name: np.full(len(each.scales), at + 1, np.float32) for at, (name, each) in enumerate(integers.items())}
    found = marked(plain, names, ranges, integers, biases)
    return absorb.on_bytes(found.graph, lambda conv: found.integers.get(conv.name))


def _any(layer: Conv, number: int) -> Integers:
    """Weights that no other layer has, as equal ones are sent once."""
    values = np.zeros(layer.spec.weight_shape, np.int8)
    values.reshape(-1)[:1] = number % 127
    return Integers(values, np.full(layer.spec.out_channels, 1.0 + number, np.float32))


def _half(graph: LayerGraph, precision: str) -> Half | None:
    """The elements of 16 bits that are asked for. Raises InputError as `in_precision`."""
    check_precision(precision)
    half = next((each for each in HALVES if each == precision), None)
    if half is not None and is_quantized(graph):
        raise InputError(f"{graph.name} is quantised to 8 bits already: it can't run in {half}; leave --precision out")
    return half


def check_precision(precision: str) -> None:
    """Raises InputError for an unknown one."""
    if precision not in PRECISIONS:
        raise InputError(unknown("precision", precision, PRECISIONS))


def is_quantized(graph: LayerGraph) -> bool:
    return any(tensor.precision.quantized for tensor in graph.tensors)


@dataclass(frozen=True, slots=True)
class PrecisionReport:
    """``share`` of the multiply-adds are in the ``narrow`` precision, 8 or 16 bits (0 to 1); ``layers``: each layer's
    precision, by name."""

    narrow: str
    share: float
    layers: Mapping[str, str]

    @property
    def sentence(self) -> str:
        """How many convs are in which."""
        counts = {kind: sum(1 for each in self.layers.values() if each == kind) for kind in (self.narrow, "fp32")}
        exact = [name for name, kind in self.layers.items() if kind == "fp32"]
        named = f" ({', '.join(exact[:3])}{', …' if len(exact) > 3 else ''})" if exact else ""
        return (
            f"{self.narrow}: {_layers(counts[self.narrow])}, {100 * self.share:.0f} % of the multiply-adds; "
            f"fp32: {_layers(counts['fp32'])}{named}"
        )


def precision_report(graph: LayerGraph) -> PrecisionReport | None:
    """In which precision each layer that computes runs; None where all are in fp32."""
    elements = {tensor.precision.element for tensor in graph.tensors}
    half = next((each for each in HALVES if each in elements), None)
    if half is None and not is_quantized(graph):
        return None
    narrow = "int8" if half is None else half
    layers = {
        layer.name: narrow if (absorb.in_bytes(graph, layer) if half is None else _has_halves(graph, layer)) else "fp32"
        for layer in graph.layers
        if layer.kind not in ("convert", "concat", "slice", "shuffle")
    }
    return PrecisionReport(narrow, share_in(graph, "uint8" if half is None else half), layers)


def _has_halves(graph: LayerGraph, layer: Layer) -> bool:
    """Whether a layer reads or makes a map of 16 bits; of a conv, whether that is what it is of."""
    if isinstance(layer, Conv):
        return layer.spec.element in HALVES
    return any(graph.tensors[number].precision.is_half for number in (*layer.reads, *layer.writes))


def _layers(count: int) -> str:
    return "1 layer" if count == 1 else f"{count} layers"
