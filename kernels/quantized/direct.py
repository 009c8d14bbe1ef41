"""Direct convolution on bytes: any kernel, stride, dilation, padding and number of groups; a linear layer is one of 1×1.

The tiles, their micro-kernel and the walk over them are those of `fogconv.kernels.conv.direct`: a word of four input
channels takes the place of one float. The output channels are cut into segments of whole vectors. Each sums over the words
that hold the input channels of its groups; where a word holds others, too, their weights are zeros. So are those beyond the
last channel, so that it never matters which bytes lie there.

Packed weights: [segment][full blocks of 4 words, then parts][K_h][K_w][word][vector][output lane][channel of the word].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from numpy.typing import NDArray

from fogconv.ir.geometry import BLOCK, NARROW, ConvSpec
from fogconv.kernels.codegen.emit import Builder, Value
from fogconv.kernels.codegen.epilogue import Epilogue
from fogconv.kernels.codegen.isa import Isa
from fogconv.kernels.codegen.jit import ready
from fogconv.kernels.codegen.microkernel import emit_tile
from fogconv.kernels.codegen.native.functions import native_function
from fogconv.kernels.codegen.tile.fields import ARGUMENTS, FIELDS, Field, clamp_bounds
from fogconv.kernels.codegen.tile.tile import Tile, make_tile
from fogconv.kernels.conv.packed_weights import Channels
from fogconv.kernels.conv.tile_walk import part, run_direct, share, tile_table, walk_numbers
from fogconv.kernels.conv.tiling import Pass, plan_passes
from fogconv.kernels.maps.blocked import Blocked, aligned_zeros
from fogconv.kernels.maps.bound import SIGNATURE, Bound, Place, address_of, bind, place
from fogconv.kernels.maps.scratch import Scratch
from fogconv.kernels.quantized.arithmetic import WORD, Dots, Product, Result, bias_of, tile_isa, unrolled
from fogconv.kernels.quantized.numbers import Floats, Sums, Target, Weights

CHUNK_BYTES = 256 * 1024
"""Bytes of a large input that are used for all output channels before the next part (see `fogconv.kernels.conv.direct`)."""

BLOCK_WORDS = BLOCK // WORD
UNROLLED_TAPS = 12
"""Up to so many taps of a row of a narrow input's kernel are unrolled."""


def words_of(start: int, stop: int) -> Channels:
    """The words that hold the channels start … stop−1."""
    return Channels.of(start // WORD, -(-stop // WORD), BLOCK_WORDS)


@dataclass(frozen=True, slots=True)
class Segment:
    """Output channels that read the same words: ``count`` tiles' worth of ``lanes`` channels each, from ``channel`` on."""

    channel: int
    pass_: Pass
    count: int
    words: Channels
    weights_at: int
    """Bytes from the start of the packed weights."""
    taps: int

    @property
    def lanes(self) -> int:
        return self.pass_.lanes

    @property
    def tile_bytes(self) -> int:
        """Of the weights of one tile's channels."""
        return WORD * self.words.count * self.taps * self.lanes


def segments(spec: ConvSpec, isa: Isa, size: int | None = None) -> tuple[Segment, ...]:
    """All output channels, in order; ``size`` fixes the vectors per tile, as for maps of all sizes that share weights."""
    taps = spec.kernel[0] * spec.kernel[1]
    c, f = spec.in_channels // spec.groups, spec.out_channels // spec.groups
    found: list[Segment] = []
    at = 0

    def passes(outputs: int, words: int, vectors: int | None) -> tuple[Pass, ...]:
        depth = words * taps
        return plan_passes(isa, spec.out_height, spec.out_width, outputs, depth, depth, vectors)

    if spec.groups == 1 or f % BLOCK == 0:
        for group in range(spec.groups):
            words = words_of(group * c, (group + 1) * c)
            for p in passes(-(-f // BLOCK) * BLOCK, words.count, size):
                found.append(Segment(group * f + p.first, p, p.count, words, at, taps))
                at += found[-1].tile_bytes * p.count
        return tuple(found)
    for first in range(0, spec.out_channels, BLOCK):
        groups = first // f, (min(first + BLOCK, spec.out_channels) - 1) // f + 1
        words = words_of(groups[0] * c, groups[1] * c)
        (p,) = passes(BLOCK, words.count, BLOCK // isa.vector_length)
        found.append(Segment(first, p, 1, words, at, taps))
        at += found[-1].tile_bytes
    return tuple(found)


@dataclass(frozen=True)
class PackedBytes:
    """Weights, and for each tile's channels their biases, then their multipliers, as the micro-kernel reads them."""

    weights: NDArray[np.int8]
    ends: NDArray[np.int32]
    vectors: int
    """Vectors per tile of all but the last channels."""

    @property
    def nbytes(self) -> int:
        return self.weights.nbytes + self.ends.nbytes


def pack(spec: ConvSpec, layout: Sequence[Segment], weight: Weights, bias: Sums, multipliers: Floats) -> PackedBytes:
    """(f, c/g, K_h, K_w) int8, (f,) int32, (f,) float32 → the micro-kernel's order; ``bias`` is that of `bias_of`."""
    kh, kw = spec.kernel
    last = layout[-1]
    packed = PackedBytes(
        aligned_zeros((last.weights_at + last.tile_bytes * last.count,), kind=np.int8),
        aligned_zeros((2 * (last.channel + last.lanes * last.count),), kind=np.int32),
        layout[0].pass_.vectors,
    )
    c, f = spec.in_channels // spec.groups, spec.out_channels // spec.groups
    for segment in layout:
        at = segment.weights_at
        for number in range(segment.count):
            start = segment.channel + number * segment.lanes
            stop = min(start + segment.lanes, spec.out_channels)
            end = packed.ends[2 * start : 2 * (start + segment.lanes)]
            end[: stop - start] = bias[start:stop]
            end[segment.lanes : segment.lanes + stop - start] = multipliers[start:stop].view(np.int32)
            runs = segment.words.runs(0)
            first = min(word for word, _ in runs)
            dense = np.zeros((segment.words.count * WORD, kh, kw, segment.lanes), np.int8)
            for group in range(start // f, (stop - 1) // f + 1):
                outputs = slice(max(start, group * f), min(stop, (group + 1) * f))
                into = group * c - first * WORD
                own = weight[outputs].transpose(1, 2, 3, 0)
                dense[into : into + c, :, :, outputs.start - start : outputs.stop - start] = own
            for word, words in runs:
                piece = dense[(word - first) * WORD : (word - first + words) * WORD].reshape(words, WORD, kh, kw, -1)
                size = piece.size
                packed.weights[at : at + size] = piece.transpose(2, 3, 0, 4, 1).ravel()
                at += size
    return packed


@cache
def tile_address(tile: Tile, dots: Dots) -> int:
    """The machine address of the compiled micro-kernel."""
    return native_function(_emit, tile, dots, arguments=ARGUMENTS)


def _emit(builder: Builder, tile: Tile, dots: Dots, *addresses: Value) -> None:
    emit_tile(builder, tile, *addresses, arithmetic=dots)


class DirectBytes:
    """Packed weights and everything that does not depend on addresses."""

    def __init__(self, spec: ConvSpec, isa: Isa, dots: Dots, target: Target, packed: PackedBytes) -> None:
        self.spec, self.isa, self.dots, self.target, self.packed = spec, isa, dots, target, packed
        self.layout = segments(spec, tile_isa(isa, dots.product_by), packed.vectors)
        ready(run_direct, SIGNATURE)
        self._addresses: dict[int, dict[tuple[int, int, int], int]] = {}
        self._tile_addresses(self.wanted_lanes)

    @staticmethod
    def prepare(
        spec: ConvSpec,
        isa: Isa,
        product: Product,
        result: Result,
        weight: Weights,
        bias: Sums,
        zero_x: int,
        multipliers: Floats,
        target: Target,
    ) -> DirectBytes:
        own = bias_of(product, bias, weight.sum(axis=(1, 2, 3), dtype=np.int64), zero_x)
        packed = pack(spec, segments(spec, tile_isa(isa, product)), weight, own, multipliers)
        return DirectBytes(spec, isa, Dots(product, result), target, packed)

    def at(self, spec: ConvSpec, scratch: Scratch | None = None) -> DirectBytes:
        """The same layer at another input size, padding or batch."""
        return DirectBytes(spec, self.isa, self.dots, self.target, self.packed)

    @property
    def wanted_lanes(self) -> int:
        """Lanes per pixel of the input with which it is fastest."""
        return NARROW if self.spec.groups == 1 and self.spec.in_channels <= NARROW else BLOCK

    def _tile_addresses(self, lanes: int) -> dict[tuple[int, int, int], int]:
        """The micro-kernels, by (output channels, rows, columns), for inputs of ``lanes`` lanes per pixel."""
        if lanes not in self._addresses:
            spec = self.spec
            few, narrow = (0, 0), lanes == NARROW
            if spec.groups == 1 and spec.in_channels <= WORD and spec.kernel[1] <= UNROLLED_TAPS:
                few = (1, spec.kernel[1])
                if narrow and spec.dilation[1] == 1:  # the row of the kernel is one run of words
                    few = (spec.kernel[1], 1)
            tight = narrow and few != (0, 0)
            step = lanes // WORD * spec.stride[1]
            self._addresses[lanes] = {
                (segment.lanes, rows, columns): tile_address(
                    self._tile(rows, columns, segment.pass_.vectors, step, few, tight), self.dots
                )
                for segment in self.layout
                for rows, columns in segment.pass_.cover.shapes
            }
        return self._addresses[lanes]

    def _tile(self, rows: int, columns: int, vectors: int, step: int, few: tuple[int, int], tight: bool) -> Tile:
        tile = make_tile(self.isa, rows, columns, vectors, step, self.isa.vector_length, few, tight=tight)
        return replace(tile, unroll=unrolled(self.isa, self.dots.product_by))

    def bind(self, x: Blocked, out: Blocked, thread: int, threads: int) -> Bound:
        """The call that computes one thread's share."""
        spec, packed, size = self.spec, self.packed, self.dots.out_bytes
        at_x = place("the input", x, narrow=spec.groups == 1, kind=np.uint8)
        at_out = place("the output", out, kind=self.dots.result.kind)
        nowhere = Place(0, 0, 0, 0)
        pixel = x.lanes
        origin = at_x.address - spec.padding[0] * at_x.row - spec.padding[2] * pixel
        micro = self._tile_addresses(x.lanes)
        by_channels = self._split_by_channels(threads)
        fields = np.zeros((len(self.layout), FIELDS), np.int64)
        items: list[list[int]] = []
        tiles, end = [], 0
        for chunk, of in [(0, 1)] if by_channels else share(self._chunks(), thread, threads):
            for number, segment in enumerate(self.layout):
                p, lanes = segment.pass_, segment.lanes
                start, stop = part(len(p.cover.bands), chunk, of)
                first, last = part(segment.count, thread, threads) if by_channels else (0, segment.count)
                if start == stop or first == last:
                    continue
                addresses = {shape: micro[lanes, *shape] for shape in p.cover.shapes}
                steps = (spec.stride[0] * at_x.row, spec.stride[1] * pixel)
                tiles.append(tile_table(p.cover, start, stop, addresses, steps, at_out, nowhere, BLOCK * size))
                begin, end = end, end + len(tiles[-1])
                channel = segment.channel + first * lanes
                items.append(
                    [
                        address_of(fields) + number * fields.strides[0],
                        origin,
                        address_of(packed.weights) + segment.weights_at + first * segment.tile_bytes,
                        address_of(packed.ends) + 8 * channel,
                        at_out.address + channel // BLOCK * at_out.block,
                        0,
                        last - first,
                        segment.tile_bytes,
                        8 * lanes,
                        lanes // BLOCK * at_out.block,
                        0,
                        begin,
                        end,
                        -(-lanes // BLOCK),
                        0,
                        0,
                    ]
                )
        for number, segment in enumerate(self.layout):
            self._fill(fields[number], segment.words, pixel, at_x, at_out)
        numbers = walk_numbers(spec.batch, at_x, at_out, nowhere, Epilogue(), items, tiles)
        return bind(run_direct, numbers, fields, packed, x, out)

    def _fill(self, fields: NDArray[np.int64], words: Channels, pixel: int, x: Place, out: Place) -> None:
        """``pixel``: bytes from one input pixel to the next."""
        spec = self.spec
        kh, kw = spec.kernel
        side_by_side = spec.dilation[1] == 1  # a row of the kernel is then one run of K_w·4 words
        tap = spec.dilation[1] * pixel
        values = {
            Field.FULL_BLOCKS: words.full_blocks,
            Field.FULL_OFFSET: words.first_block * x.block,
            Field.BLOCK_STRIDE: x.block,
            Field.KERNEL_ROWS: kh,
            Field.KERNEL_ROW_STRIDE: spec.dilation[0] * x.row,
            Field.RUNS: 1 if side_by_side else kw,
            Field.RUN_STRIDE: tap,
            Field.RUN_ROUNDS: (kw if side_by_side else 1) * BLOCK_WORDS // unrolled(self.isa, self.dots.product_by),
            Field.PARTS: len(words.parts),
            Field.TAPS: kw,
            Field.TAP_STRIDE: tap,
            Field.ROW_STRIDE: spec.stride[0] * x.row,
            Field.OUT_BLOCK_STRIDE: out.block,
            Field.OUT_ROW_STRIDE: out.row,
            Field.CLAMP: clamp_bounds(self.target.low - self.target.zero, self.target.high - self.target.zero),
            Field.ZERO: self.target.zero,
        }
        for i, (block, word, count) in enumerate(words.parts):
            values[Field(Field.PART_OFFSET + 2 * i)] = block * x.block + WORD * word
            values[Field(Field.PART_LANES + 2 * i)] = count
        for field, value in values.items():
            fields[field] = value

    def _chunks(self) -> int:
        spec = self.spec
        input_bytes = spec.in_channels * spec.height * spec.width
        return min(spec.out_height, -(-input_bytes // CHUNK_BYTES)) if input_bytes > 2 * CHUNK_BYTES else 1

    def _split_by_channels(self, threads: int) -> bool:
        """Whether threads share the output channels (deep layers: each reads half of the weights) or the rows."""
        if threads == 1:
            return False
        spec = self.spec
        most = max(segment.count for segment in self.layout)
        return most >= 2 * threads and self.packed.weights.nbytes > spec.in_channels * spec.height * spec.width
