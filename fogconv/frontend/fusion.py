"""Fusion: make a list of layers shorter without changing what it computes.

    conv → affine → act          becomes   conv with its weights scaled, its bias shifted and its activation set; an act is
                                           any elementwise operator on one map
    affine → affine              becomes   one affine
    phases → interleave → affine becomes   phases with their affine each, and so a transposed conv with its activation
    conv → add (other operand)   becomes   conv with a residual, where the other operand exists before the conv runs

A layer is merged into the one before it only where no other layer reads the tensor between them. Scales are multiplied in
float64; rounding to the model's type happens once, after fusion. No torch here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fogconv.ir.graph import LayerGraph
from fogconv.ir.layers import Add, Affine, Concat, Conv, Elementwise, Interleave, Layer, Normalize, Slice

AnyArray = NDArray[Any]
Draft = dict[str, AnyArray]
"""Weights by provisional names, before they are hashed."""


def fuse(layers: Sequence[Layer], arrays: Draft, outputs: Collection[int]) -> tuple[list[Layer], Draft]:
    """The layers with every affine, activation and residual sum merged where that is legal.

    ``outputs`` are the graph's outputs, which count as read. The draft is not changed; the returned one holds the folded
    weights as float64.
    """
    kept: list[Layer | None] = list(layers)
    draft = dict(arrays)
    _take_in_affines(kept, draft, outputs)
    _take_in_sums(kept, outputs)
    return [layer for layer in kept if layer is not None], draft


def _readers(layers: Sequence[Layer | None], outputs: Collection[int]) -> Counter[int]:
    count = Counter(number for layer in layers if layer is not None for number in layer.reads)
    count.update(outputs)
    return count


def _take_in_affines(layers: list[Layer | None], draft: Draft, outputs: Collection[int]) -> None:
    """In order, so that conv → batch norm → activation is merged in two steps."""
    readers = _readers(layers, outputs)
    producer: dict[int, int] = {}
    for index, layer in enumerate(layers):
        source = _only_source(layer)
        if source is not None and readers[source] == 1 and source in producer:
            assert isinstance(layer, Affine | Elementwise)
            before = layers[producer[source]]
            merged: Layer | None
            if isinstance(before, Interleave):
                merged = _into_phases(layers, before, layer, draft, readers, producer)
            else:
                merged = _merge(before, layer, draft)
            if merged is not None:
                position = producer[source]
                layers[position], layers[index] = merged, None
                producer[layer.target] = position
                continue
        if layer is not None:
            producer.update((number, index) for number in layer.writes)


def _only_source(layer: Layer | None) -> int | None:
    """The map that an affine, or an operator on one map, reads."""
    if isinstance(layer, Affine):
        return layer.source
    alone = isinstance(layer, Elementwise) and len(layer.sources) == 1 and layer.constant is None
    return layer.sources[0] if isinstance(layer, Elementwise) and alone else None


def _merge(before: Layer | None, affine: Affine | Elementwise, draft: Draft) -> Layer | None:
    """One layer in place of two, or None where they don't combine."""
    if not isinstance(before, Conv | Affine | Add | Normalize) or before.activation is not None:
        return None
    if isinstance(affine, Elementwise):
        return replace(before, target=affine.target, activation=affine.activation)
    if affine.scale is None and affine.shift is None:
        return replace(before, target=affine.target, activation=affine.activation)
    scale = _float64(draft, affine.scale)
    shift = _float64(draft, affine.shift)
    match before:
        case Conv(residual=None):
            weight, bias = before.weight, _float64(draft, before.bias)
            if scale is not None:
                weight = f"{before.weight}*{affine.scale}"
                draft[weight] = _scaled(draft[before.weight], scale)
            return replace(
                before,
                target=affine.target,
                weight=weight,
                bias=_store(draft, f"{before.weight}+{affine.target}", _chain(bias, scale, shift)),
                activation=affine.activation,
            )
        case Affine():
            first, offset = _float64(draft, before.scale), _float64(draft, before.shift)
            both = first if scale is None else scale if first is None else first * scale
            return replace(
                before,
                target=affine.target,
                scale=_store(draft, f"{before.target}*{affine.target}", both),
                shift=_store(draft, f"{before.target}+{affine.target}", _chain(offset, scale, shift)),
                activation=affine.activation,
            )
    return None


def _into_phases(
    layers: list[Layer | None],
    before: Interleave,
    affine: Affine | Elementwise,
    draft: Draft,
    readers: Counter[int],
    producer: dict[int, int],
) -> Interleave | None:
    """An affine layer and an operator on one map commute with interleaving. None unless every phase can take it in."""
    whole = _cut_of(layers, before, readers, producer)
    if whole is not None:
        position, conv = whole
        repeated = replace(affine, target=conv.target)
        if isinstance(repeated, Affine):
            scale, shift = (_tiled(draft, key, len(before.sources)) for key in (repeated.scale, repeated.shift))
            repeated = replace(repeated, scale=scale, shift=shift)
        merged = _merge(conv, repeated, draft)
        layers[position] = merged or conv
        return None if merged is None else replace(before, target=affine.target)
    found = []
    for source in before.sources:
        phase = layers[producer[source]] if readers[source] == 1 and source in producer else None
        reading = {"source": source} if isinstance(affine, Affine) else {"sources": (source,)}
        merged = _merge(phase, replace(affine, target=source, **reading), draft)
        if merged is None:
            return None
        found.append(merged)
    for source, merged in zip(before.sources, found, strict=True):
        layers[producer[source]] = merged
    return replace(before, target=affine.target)


def _tiled(draft: Draft, key: str | None, count: int) -> str | None:
    """A vector so many times over."""
    return None if key is None else _store(draft, f"{key}·{count}", np.tile(draft[key], count))


def _cut_of(
    layers: list[Layer | None], phases: Interleave, readers: Counter[int], producer: dict[int, int]
) -> tuple[int, Conv] | None:
    """The conv, with its position, whose channels are the phases one after the other, and nothing else; None for others."""
    cuts = [layers[producer[source]] if source in producer else None for source in phases.sources]
    slices = [cut for cut in cuts if isinstance(cut, Slice)]
    if len(slices) < len(cuts) or any(readers[source] > 1 for source in phases.sources):
        return None
    [position, *others] = {producer.get(cut.source, -1) for cut in slices}
    conv = layers[position] if position >= 0 and not others else None
    if not isinstance(conv, Conv) or readers[conv.target] != len(slices) or conv.spec.out_channels % len(slices):
        return None
    channels = conv.spec.out_channels // len(slices)
    return (position, conv) if [cut.start for cut in slices] == [n * channels for n in range(len(slices))] else None


def _scaled(weight: AnyArray, scale: AnyArray) -> AnyArray:
    scaled: AnyArray = weight.astype(np.float64) * scale.reshape(-1, 1, 1, 1)
    return scaled


def _chain(bias: AnyArray | None, scale: AnyArray | None, shift: AnyArray | None) -> AnyArray | None:
    """bias · scale + shift, with absent terms left out."""
    if bias is not None and scale is not None:
        bias = bias * scale
    if bias is None or shift is None:
        return shift if bias is None else bias
    total: AnyArray = bias + shift
    return total


def _float64(draft: Draft, key: str | None) -> AnyArray | None:
    return None if key is None else draft[key].astype(np.float64)


def _store(draft: Draft, key: str, value: AnyArray | None) -> str | None:
    if value is None:
        return None
    draft[key] = value
    return key


def _take_in_sums(layers: list[Layer | None], outputs: Collection[int]) -> None:
    """Where both operands come from convs the later one computes the sum: the other's result exists when it runs.

    Moving a conv after its partner would allow more sums to be fused, but keeps two maps longer; no torchvision model has
    such a sum.
    """
    readers = _readers(layers, outputs)
    producer: dict[int, int] = {}
    for index, layer in enumerate(layers):
        if layer is None:
            continue
        if isinstance(layer, Add) and len(layer.sources) == 2:
            taken = _conv_for_sum(layers, layer, readers, producer)
            if taken is not None:
                position, conv = taken
                layers[position], layers[index] = conv, None
                producer[layer.target] = position
                continue
        producer.update((number, index) for number in layer.writes)


def _conv_for_sum(
    layers: Sequence[Layer | None], add: Add, readers: Counter[int], producer: dict[int, int]
) -> tuple[int, Conv] | None:
    best: tuple[int, Conv] | None = None
    for source, other in (add.sources, add.sources[::-1]):
        position = producer.get(source, -1)
        conv = layers[position] if position >= 0 else None
        if (
            isinstance(conv, Conv)
            and not conv.linear
            and conv.activation is None
            and conv.residual is None
            and readers[source] == 1
            and producer.get(other, -1) < position  # −1: an input, which exists from the start
            and (best is None or position > best[0])
        ):
            best = position, replace(conv, target=add.target, activation=add.activation, residual=other)
    return best


def nest_concats(graph: LayerGraph) -> LayerGraph:
    """The same graph with such sources replaced; a graph without them is returned unchanged."""
    earlier: dict[tuple[int, ...], int] = {}
    layers: list[Layer] = []
    for layer in graph.layers:
        if isinstance(layer, Concat):
            length = max((n for n in range(2, len(layer.sources)) if layer.sources[:n] in earlier), default=0)
            earlier.setdefault(layer.sources, layer.target)
            if length:
                layer = replace(layer, sources=(earlier[layer.sources[:length]], *layer.sources[length:]))
        layers.append(layer)
    return graph if tuple(layers) == graph.layers else replace(graph, layers=tuple(layers))
