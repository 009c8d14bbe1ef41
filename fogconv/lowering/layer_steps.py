"""Layer steps: the step that computes one rank's part of a layer, by the layer's type.

A maker receives the builder (for weights and the graph), the layer, the work, the places that the work reads in the order
of ``layer.needs``, and the place of the result. It returns the step; the caller appends it to the program.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fogconv.ir import layers
from fogconv.ir import steps as step
from fogconv.ir.geometry import Region
from fogconv.ir.shard import Work
from fogconv.ir.steps import AnyStep
from fogconv.lowering.buffers import Held, shuffled
from fogconv.lowering.program_builder import ProgramBuilder

Maker = Callable[[ProgramBuilder, Any, Work, Sequence[Held], Held], AnyStep]


def _conv(b: ProgramBuilder, layer: layers.Conv, work: Work, inputs: Sequence[Held], out: Held) -> AnyStep:
    shard = layer.shard(work)
    weight = b.weight(work.rank, layer.weight, (shard.filters.slice(), shard.depth.slice()))
    bias = None
    if layer.bias is not None and shard.bears_bias:
        bias = b.weight(work.rank, layer.bias, (shard.filters.slice(),))
    scales = None
    if layer.scales is not None and not layer.is_partial(work):
        scales = b.weight(work.rank, layer.scales, (shard.filters.slice(),))
    residual = inputs[1] if len(inputs) > 1 else None
    return step.Conv(
        b.index,
        shard.spec,
        weight,
        bias,
        None if layer.is_partial(work) else layer.activation,
        inputs[0].buffer,
        inputs[0].place,
        out.buffer,
        out.place,
        None if residual is None else residual.buffer,
        None if residual is None else residual.place,
        scales,
    )


def _convert(b: ProgramBuilder, layer: layers.Convert, work: Work, inputs: Sequence[Held], out: Held) -> AnyStep:
    [source] = inputs
    return step.Convert(b.index, source.buffer, source.place, out.buffer, out.place)


def _pool(b: ProgramBuilder, layer: layers.Pool, work: Work, inputs: Sequence[Held], out: Held) -> AnyStep:
    [source] = inputs
    return step.Pool(b.index, layer.spec, source.buffer, source.place, out.buffer, out.place)


def _global_pool(b: ProgramBuilder, layer: layers.GlobalPool, work: Work, inputs: Sequence[Held], out: Held) -> AnyStep:
    [source] = inputs
    whole = b.graph.tensors[layer.source]
    return step.GlobalPool(b.index, source.buffer, source.place, out.buffer, out.place, whole.height * whole.width)


def _squares(b: ProgramBuilder, layer: layers.Squares, work: Work, inputs: Sequence[Held], out: Held) -> AnyStep:
    source, mean = inputs
    whole = b.graph.tensors[layer.source]
    return step.Squares(
        b.index,
        source.buffer,
        source.place,
        mean.buffer,
        mean.place,
        out.buffer,
        out.place,
        *_group(b, layer, work),
        whole.height * whole.width,
    )


def _normalize(b: ProgramBuilder, layer: layers.Normalize, work: Work, inputs: Sequence[Held], out: Held) -> AnyStep:
    source, mean, squares = inputs
    return step.Normalize(
        b.index,
        source.buffer,
        source.place,
        mean.buffer,
        mean.place,
        squares.buffer,
        squares.place,
        out.buffer,
        out.place,
        *_group(b, layer, work),
        layer.eps,
        *_scale_and_shift(b, layer, work),
        layer.activation,
    )


def _group(b: ProgramBuilder, layer: layers.Squares | layers.Normalize, work: Work) -> tuple[int, int]:
    """The channels of a group, and the place of the work's first channel in its group."""
    per_group = b.graph.tensors[layer.source].channels // layer.groups
    return per_group, work.output.channels.start % per_group


def _across(b: ProgramBuilder, layer: layers.AcrossChannels, work: Work, inputs: Sequence[Held], out: Held) -> AnyStep:
    [source] = inputs
    places = (source.buffer, source.place, out.buffer, out.place)
    return step.AcrossChannels(b.index, layer.op, *places, layer.parameters, *_scale_and_shift(b, layer, work))


def _scale_and_shift(
    b: ProgramBuilder, layer: layers.Affine | layers.Normalize | layers.AcrossChannels, work: Work
) -> tuple[str | None, str | None]:
    scale, shift = (
        None if key is None else b.weight(work.rank, key, (work.output.channels.slice(),))
        for key in (layer.scale, layer.shift)
    )
    return scale, shift


def _add(b: ProgramBuilder, layer: layers.Add, work: Work, inputs: Sequence[Held], out: Held) -> AnyStep:
    buffers, places = _all(inputs)
    return step.Add(b.index, buffers, places, out.buffer, out.place, layer.activation)


def _affine(b: ProgramBuilder, layer: layers.Affine, work: Work, inputs: Sequence[Held], out: Held) -> AnyStep:
    [source] = inputs
    scale, shift = _scale_and_shift(b, layer, work)
    return step.Affine(b.index, source.buffer, source.place, out.buffer, out.place, scale, shift, layer.activation)


def _elementwise(b: ProgramBuilder, layer: layers.Elementwise, work: Work, inputs: Sequence[Held], out: Held) -> AnyStep:
    buffers, places = _all(inputs)
    constant = None
    if layer.constant is not None:
        spans = work.output.cut_to(Region.whole(*b.graph.weights[layer.constant].shape))
        cut = tuple(span.slice() for span in (spans.channels, spans.rows, spans.columns))
        constant = b.weight(work.rank, layer.constant, cut)
    return step.Elementwise(b.index, layer.op, buffers, places, out.buffer, out.place, layer.parameters, constant)


def _gate(b: ProgramBuilder, layer: layers.Gate, work: Work, inputs: Sequence[Held], out: Held) -> AnyStep:
    source, gate = inputs
    return step.Gate(b.index, source.buffer, source.place, gate.buffer, gate.place, out.buffer, out.place)


def _shuffle(b: ProgramBuilder, layer: layers.Shuffle, work: Work, inputs: Sequence[Held], out: Held) -> AnyStep:
    [source] = inputs
    channels = shuffled(layer, b.graph.tensors[layer.source].channels)[work.output.channels.slice()]
    return step.Permute(b.index, source.buffer, source.place, out.buffer, out.place, channels)


def _resample(b: ProgramBuilder, layer: layers.Resample, work: Work, inputs: Sequence[Held], out: Held) -> AnyStep:
    [source] = inputs
    rows, columns = layer.rows.part(work.output.rows), layer.columns.part(work.output.columns)
    return step.Resample(b.index, source.buffer, source.place, out.buffer, out.place, rows, columns, layer.fill)


def _interleave(b: ProgramBuilder, layer: layers.Interleave, work: Work, inputs: Sequence[Held], out: Held) -> AnyStep:
    buffers, places = _all(inputs)
    return step.Interleave(b.index, buffers, places, out.buffer, out.place, layer.factors)


def _all(inputs: Sequence[Held]) -> tuple[tuple[int, ...], tuple[Region, ...]]:
    return tuple(held.buffer for held in inputs), tuple(held.place for held in inputs)


MAKERS: Mapping[type[Any], Maker] = {
    layers.Conv: _conv,
    layers.Pool: _pool,
    layers.GlobalPool: _global_pool,
    layers.Squares: _squares,
    layers.Normalize: _normalize,
    layers.AcrossChannels: _across,
    layers.Add: _add,
    layers.Affine: _affine,
    layers.Elementwise: _elementwise,
    layers.Gate: _gate,
    layers.Shuffle: _shuffle,
    layers.Resample: _resample,
    layers.Interleave: _interleave,
    layers.Convert: _convert,
}
"""Every type of layer that workers compute. (A Host layer runs in torch; a layer that relabels is in no program.)"""
