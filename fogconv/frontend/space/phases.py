"""Phases: a map as s·t coarser maps, one for each place in a cell of s × t pixels.

Transposed convolutions, depth-to-space and space-to-depth all go by phases. A transposed convolution with strides (s, t)
computes each phase of its output by an ordinary convolution of stride 1, with the weights that meet this phase: the
convolutions' kernels do the work, and every way to cut a convolution is one to cut the transposed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product

import numpy as np

from fogconv.frontend.building.graph_builder import GraphBuilder, picks
from fogconv.frontend.building.values import Ref, Shape
from fogconv.frontend.fusion import AnyArray
from fogconv.frontend.space.resampling import stepped
from fogconv.ir.geometry import BLOCK, Taps
from fogconv.ir.layers import Concat, Resample


@dataclass(frozen=True, slots=True)
class Phase:
    """One phase along one axis: output q of it is Σ weight[``taps[i]``] · input[q + i·dilation − before], with zeros beyond
    the input. A tap of −1 has no weight."""

    taps: tuple[int, ...]
    dilation: int
    before: int
    after: int


def phases(size: int, kernel: int, stride: int, dilation: int, before: int, out: int) -> list[Phase]:
    """Those of a transposed convolution along one axis with ``size`` inputs and ``out`` outputs, of which ``before`` have
    been cut off at the start."""
    step = dilation // math.gcd(dilation, stride)
    outputs = -(-out // stride)
    found = []
    for phase in range(stride):
        # Weight k meets output q·stride + phase at input q + offset, where that is a whole number.
        reach = {k: phase + before - dilation * k for k in range(kernel)}
        offsets = {distance // stride: k for k, distance in reach.items() if distance % stride == 0}
        low, high = min(offsets, default=0), max(offsets, default=0)
        # A padding can't be negative: where the taps begin behind the first input, or end before the last, add some of 0.
        low -= -(-max(0, low) // step) * step
        high += -(-max(0, size - outputs - high) // step) * step
        taps = tuple(offsets.get(offset, -1) for offset in range(low, high + 1, step))
        found.append(Phase(taps, step, -low, outputs - 1 + high - (size - 1)))
    return found


def conv_transpose(
    b: GraphBuilder,
    name: str,
    source: int,
    weight: AnyArray,
    bias: AnyArray | None,
    *,
    stride: tuple[int, int],
    before: tuple[int, int],
    dilation: tuple[int, int],
    groups: int,
    size: tuple[int, int],
) -> Ref:
    """``weight`` is (in channels, out channels ÷ groups, rows, columns); ``before`` the rows and columns that the padding
    cuts off at the start; ``size`` the output's rows and columns."""
    read = b.tensors[source]
    straight = _straight(weight, groups)
    rows, columns = (
        phases(length, kernel, step, spread, cut, out)
        for length, kernel, step, spread, cut, out in zip(
            (read.height, read.width), weight.shape[2:], stride, dilation, before, size, strict=True
        )
    )
    together = stride[0] * stride[1] * straight.shape[0]
    if groups == 1 and stride[0] * stride[1] > 1 and together <= BLOCK and {each.dilation for each in rows + columns} == {1}:
        return _in_one_block(b, name, source, straight, bias, rows, columns, size)
    parts = [
        b.conv(
            name if len(rows) * len(columns) == 1 else f"{name}.phase{number}",
            source,
            _taken(straight, row, column),
            bias,
            stride=(1, 1),
            padding=(row.before, row.after, column.before, column.after),
            dilation=(row.dilation, column.dilation),
            groups=groups,
        )
        for number, (row, column) in enumerate(product(rows, columns))
    ]
    return b.interleave(name, [part.tensor for part in parts], stride, size)


def _in_one_block(
    b: GraphBuilder,
    name: str,
    source: int,
    weight: AnyArray,
    bias: AnyArray | None,
    rows: list[Phase],
    columns: list[Phase],
    size: tuple[int, int],
) -> Ref:
    """All phases by one convolution, where they have room in one block of channels: its input is read once, and the taps
    that not all phases have cost nothing."""
    rows, columns = _alike(rows), _alike(columns)
    count = len(rows) * len(columns)
    whole = b.conv(
        name,
        source,
        np.concatenate([_taken(weight, row, column) for row, column in product(rows, columns)]),
        None if bias is None else np.tile(bias, count),
        stride=(1, 1),
        padding=(rows[0].before, rows[0].after, columns[0].before, columns[0].after),
        dilation=(1, 1),
        groups=1,
    )
    channels = weight.shape[0]
    shape = (whole.shape[0], channels, *whole.shape[2:])
    parts = [b.channels(name, whole, number * channels, channels, shape) for number in range(count)]
    return b.interleave(name, [part.tensor for part in parts], (len(rows), len(columns)), size)


def _alike(phases: list[Phase]) -> list[Phase]:
    """The same phases over one window, where none has dilation: further taps have no weight."""
    before, after = max(each.before for each in phases), max(each.after for each in phases)
    return [
        Phase((-1,) * (before - each.before) + each.taps + (-1,) * (after - each.after), 1, before, after) for each in phases
    ]


def _straight(weight: AnyArray, groups: int) -> AnyArray:
    """The weight as (out channels, in channels ÷ groups, rows, columns)."""
    c, f, *kernel = weight.shape
    whole: AnyArray = (
        weight.reshape(groups, c // groups, f, *kernel).swapaxes(1, 2).reshape(groups * f, c // groups, *kernel)
    )
    return whole


def _taken(weight: AnyArray, row: Phase, column: Phase) -> AnyArray:
    """The weights of one phase; one more row and column of zeros stand for taps of −1."""
    widened = np.pad(weight, ((0, 0), (0, 0), (0, 1), (0, 1)))
    taken: AnyArray = np.ascontiguousarray(widened[:, :, row.taps][:, :, :, column.taps])
    return taken


def conv(
    b: GraphBuilder,
    name: str,
    source: int,
    weight: AnyArray,
    bias: AnyArray | None,
    *,
    stride: tuple[int, int],
    padding: tuple[int, int, int, int],
    dilation: tuple[int, int],
    groups: int,
) -> Ref:
    """A convolution; one of phases that are concatenated (YOLOX's focus, a space-to-depth) is the same convolution of the
    map before, with s times the rows in steps of s."""
    focus = _focus(b, source) if dilation == (1, 1) and groups == 1 else None
    if focus is not None:
        source, (s, t), places = focus
        f, _, height, width = weight.shape
        channels = b.tensors[source].channels
        fine = np.zeros((f, channels, height * s, width * t), weight.dtype)
        for number, (i, j) in enumerate(places):
            fine[:, :, i::s, j::t] += weight[:, number * channels : (number + 1) * channels]
        top, bottom, left, right = padding
        weight, padding = fine, (top * s, bottom * s, left * t, right * t)
        stride = (stride[0] * s, stride[1] * t)
    return b.conv(name, source, weight, bias, stride=stride, padding=padding, dilation=dilation, groups=groups)


def _focus(b: GraphBuilder, tensor: int) -> tuple[int, tuple[int, int], list[tuple[int, int]]] | None:
    """The map, the factors (s, t) and the places (i, j) of the phases of which this one consists; None for any other."""
    concat = b.made_by(tensor)
    parts = [b.made_by(source) for source in concat.sources] if isinstance(concat, Concat) else []
    found = [part for part in parts if isinstance(part, Resample) and picks(part)]
    if len(found) < max(2, len(parts)) or len({part.source for part in found}) > 1:
        return None
    rows, columns = [_phase(part.rows) for part in found], [_phase(part.columns) for part in found]
    factors = {(row[0], column[0]) for row, column in zip(rows, columns, strict=True)}
    if len(factors) > 1 or 0 in min(factors):
        return None
    places = [(row[1], column[1]) for row, column in zip(rows, columns, strict=True)]
    return found[0].source, factors.pop(), places


def _phase(taps: Taps) -> tuple[int, int]:
    """(s, i) where the taps pick every s-th input from i on, and s divides their number; (0, 0) where not."""
    step = taps.size // len(taps.starts)
    first = taps.starts[0]
    exact = step * len(taps.starts) == taps.size and first < step
    return (step, first) if exact and taps.starts == tuple(range(first, taps.size, step)) else (0, 0)


def depth_to_space(b: GraphBuilder, name: str, source: int, factor: int, *, phases_first: bool) -> Ref:
    """Blocks of factor² channels become squares of pixels. ``phases_first``: channel (i·factor + j)·C + c of the source is
    pixel (i, j) of channel c (ONNX's DCR), else channel c·factor² + i·factor + j is (CRD, torch's pixel shuffle)."""
    read = b.tensors[source]
    channels = read.channels // factor**2
    whole = Ref(source, read.shape)
    if not phases_first:
        whole = b.shuffled(name, whole, channels, read.shape)
    shape = (read.batch, channels, read.height, read.width)
    parts = [b.channels(name, whole, number * channels, channels, shape) for number in range(factor**2)]
    return b.interleave(name, [part.tensor for part in parts], (factor, factor), (read.height * factor, read.width * factor))


def space_to_depth(b: GraphBuilder, name: str, source: int, factor: int, shape: Shape, *, phases_first: bool) -> Ref:
    """The inverse of `depth_to_space`; rows and columns must be multiples of the factor."""
    read = b.tensors[source]
    height, width = read.height // factor, read.width // factor
    parts = [
        b.resample(name, source, stepped(read.height, i, factor, height), stepped(read.width, j, factor, width)).tensor
        for i, j in product(range(factor), repeat=2)
    ]
    whole = b.concat(name, parts, shape)
    return whole if phases_first else b.shuffled(name, whole, factor**2, shape)
