"""Winograd convolution on bytes: the bits of the direct one, by a quarter of its products.

As in `fogconv.kernels.conv.winograd`, for a set of tiles at a time: transform their inputs into V, multiply the matrices,
one per element, with the micro-kernel of direct convolution (a word of two channels takes the place of one float),
transform the products M into the output.

    V  [element][input block][tile][16]     of int16
    U  [element][group][word][lane][2]      of int16
    M  [element][output block][tile][16]    of int32

The arithmetic is that of `fogconv.kernels.quantized.winograd.transforms`, which is exact: so nothing depends on how a layer
is cut, nor on which of its parts are computed in this way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fogconv.ir.geometry import BLOCK, ConvSpec
from fogconv.ir.memory.algorithm import LEAST_TILES, odd_lines, winograd_sets, winograd_tiles
from fogconv.kernels.codegen.emit import Builder, Value
from fogconv.kernels.codegen.isa import Isa
from fogconv.kernels.codegen.jit import jit, ready
from fogconv.kernels.codegen.microkernel import emit_tile
from fogconv.kernels.codegen.native.calls import call_tile
from fogconv.kernels.codegen.native.functions import native_function
from fogconv.kernels.codegen.tile.fields import ARGUMENTS, FIELDS, LINE, Field, clamp_bounds
from fogconv.kernels.codegen.tile.tile import Tile, make_tile
from fogconv.kernels.conv.direct import lines_at_once
from fogconv.kernels.conv.packed_weights import Channels
from fogconv.kernels.conv.tile_walk import part
from fogconv.kernels.conv.tiling import Pass, plan_passes
from fogconv.kernels.maps.blocked import Blocked, aligned_zeros, blocks
from fogconv.kernels.maps.bound import SIGNATURE, Bound, address_of, bind, place
from fogconv.kernels.maps.scratch import Scratch
from fogconv.kernels.quantized.arithmetic import Dots, Product, Result, bias_of, tile_isa
from fogconv.kernels.quantized.numbers import Floats, Sums, Target, Weights
from fogconv.kernels.quantized.winograd.shorts import Shorts
from fogconv.kernels.quantized.winograd.transforms import (
    ELEMENTS,
    OUTPUTS,
    input_intrinsic,
    output_intrinsic,
    transformed,
)

HEADER, SET, ITEM, TILE = 23, 9, 8, 2
WORD, BLOCK_WORDS = 2, BLOCK // 2
"""Input channels of a word, and words of a block."""
IN_BYTES, SHORT_BYTES, SUM_BYTES = BLOCK, 2 * BLOCK, 4 * BLOCK
"""Of a pixel's block of channels: as it is read, of a tile in V, and in M."""


def can_run(product: Product) -> bool:
    """Whether the CPU adds products of pairs of 16-bit integers: on x86. An aarch64 that sums products of bytes in fours
    computes as many outputs directly in the same time."""
    return product in (Product.VNNI, Product.PAIRS)


@cache
def tile_address(tile: Tile, shorts: Shorts) -> int:
    """The machine address of the compiled micro-kernel."""
    return native_function(_emit, tile, shorts, arguments=ARGUMENTS)


def _emit(builder: Builder, tile: Tile, shorts: Shorts, *addresses: Value) -> None:
    emit_tile(builder, tile, *addresses, arithmetic=shorts)


@cache
def driver(isa: Isa, result: Result) -> Any:
    """The compiled function that walks the numbers of `WinogradBytes.bind`."""
    transform_input, transform_output = input_intrinsic(), output_intrinsic(isa, result)
    pixel = BLOCK * np.dtype(result.kind).itemsize

    @jit
    def run_winograd_bytes(a):  # type: ignore[no-untyped-def]
        per_image, across, height, width, sets = a[:5]
        x, x_image, x_row, x_block, x_blocks, x_rows, x_columns = a[5:12]
        out, out_image, out_row, out_block, out_first, out_last = a[12:18]
        v, products, weights_start, weights_element, ends = a[18:HEADER]
        for number in range(sets):
            at = HEADER + SET * number
            first, last, v_element, v_block, m_element, m_block, fields, items, items_end = a[at : at + SET]
            for block in range(x_blocks):
                to = v + block * v_block
                for tile in range(first, last):
                    image, place = tile // per_image, tile % per_image
                    row, column = OUTPUTS * (place // across), OUTPUTS * (place % across)
                    start = x + image * x_image + block * x_block + row * x_row + IN_BYTES * column
                    transform_input(start, x_row, x_rows - row, x_columns - column, to, v_element)
                    to += SHORT_BYTES
            for element in range(ELEMENTS):
                for item in range(items, items_end, ITEM):
                    weights = weights_start + element * weights_element + a[item]
                    to = products + element * m_element + a[item + 1]
                    for _group in range(a[item + 2]):
                        coming = weights + a[item + 3]
                        end = coming + a[item + 3] - a[item + 7]
                        for tile in range(a[item + 5], a[item + 6], TILE):
                            offset = a[tile + 1]
                            start = v + element * v_element + SHORT_BYTES * offset
                            call_tile(a[tile], fields, start, weights, 0, to + SUM_BYTES * offset, 0, coming)
                            coming = min(coming + a[item + 7], end)
                        weights += a[item + 3]
                        to += a[item + 4]
            for block in range(out_first, out_last):
                start = products + block * m_block
                for tile in range(first, last):
                    image, place = tile // per_image, tile % per_image
                    row, column = OUTPUTS * (place // across), OUTPUTS * (place % across)
                    to = out + image * out_image + block * out_block + row * out_row + pixel * column
                    own = ends + 2 * SUM_BYTES * block
                    transform_output(start, m_element, own, to, out_row, height - row, width - column, fields)
                    start += SUM_BYTES

    return run_winograd_bytes


@dataclass(frozen=True)
class PackedWinograd:
    """U, and for each block of output channels its biases, then its multipliers."""

    u: NDArray[np.int16]
    ends: NDArray[np.int32]
    vectors: int
    """Vectors of output channels per group."""

    @property
    def nbytes(self) -> int:
        return self.u.nbytes + self.ends.nbytes


def words_of(channels: int) -> int:
    return -(-channels // WORD)


def pack(weight: Weights, bias: Sums, multipliers: Floats, groups: Sequence[int], vectors: int) -> PackedWinograd:
    """(f, c, 3, 3) int8, (f,) int32, (f,) float32 → the order in which they are read; ``groups``: the output channels of
    each group, in order."""
    f, c = weight.shape[:2]
    words, lanes = words_of(c), blocks(f) * BLOCK
    packed = aligned_zeros((ELEMENTS, words * lanes * WORD), kind=np.int16)
    at = start = 0
    for wide in groups:  # a group at a time, as U is eight times as large as the weights
        stop = min(start + wide, f)
        dense = np.zeros((ELEMENTS, words * WORD, wide), np.int16)
        dense[:, :c, : stop - start] = transformed(weight[start:stop])
        size = words * wide * WORD
        packed[:, at : at + size] = dense.reshape(ELEMENTS, words, WORD, wide).transpose(0, 1, 3, 2).reshape(ELEMENTS, size)
        at, start = at + size, start + wide
    ends = aligned_zeros((blocks(f), 2, BLOCK), kind=np.int32)
    for row, values in ((0, bias), (1, multipliers.view(np.int32))):
        own = np.zeros(lanes, np.int32)
        own[:f] = values
        ends[:, row] = own.reshape(-1, BLOCK)
    return PackedWinograd(packed, ends, vectors)


class WinogradBytes:
    """U and everything that does not depend on addresses."""

    wanted_lanes = BLOCK

    def __init__(
        self, spec: ConvSpec, isa: Isa, dots: Dots, target: Target, packed: PackedWinograd, scratch: Scratch
    ) -> None:
        self.spec, self.isa, self.dots, self.target, self.packed = spec, isa, dots, target, packed
        self._scratch = scratch
        self._down, self._across = winograd_tiles(spec, (OUTPUTS, OUTPUTS))
        self._tiles = spec.batch * self._down * self._across
        ready(driver(isa, dots.result), SIGNATURE)

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
        scratch: Scratch,
    ) -> WinogradBytes:
        tiles = max(winograd_sets(spec, ELEMENTS, spec.batch * int(np.prod(winograd_tiles(spec, (OUTPUTS, OUTPUTS))))))
        passes = _passes(spec, isa, tiles, None)
        own = bias_of(Product.VNNI, bias, weight.sum(axis=(1, 2, 3), dtype=np.int64), zero_x)
        groups = [p.lanes for p in passes for _ in range(p.count)]
        packed = pack(weight, own, multipliers, groups, passes[0].vectors)
        return WinogradBytes(spec, isa, Dots(product, result), target, packed, scratch)

    def at(self, spec: ConvSpec, scratch: Scratch | None = None) -> WinogradBytes:
        """The same layer at another input size, padding or batch, and with another scratch."""
        return WinogradBytes(spec, self.isa, self.dots, self.target, self.packed, scratch or self._scratch)

    def bind(self, x: Blocked, out: Blocked, thread: int, threads: int) -> Bound:
        """The call that does one thread's share: some of the tiles, or of the output channels where tiles are few."""
        spec, packed = self.spec, self.packed
        at_x, at_out = place("the input", x, kind=np.uint8), place("the output", out, kind=self.dots.result.kind)
        by_tiles = threads == 1 or self._tiles >= 2 * LEAST_TILES * threads or blocks(spec.out_channels) < 2 * threads
        first_tile, last_tile = part(self._tiles, thread, threads) if by_tiles else (0, self._tiles)
        sizes = winograd_sets(spec, ELEMENTS, last_tile - first_tile)
        longest, words = max(sizes, default=0), words_of(spec.in_channels)
        v_element = LINE * odd_lines(-(-blocks(spec.in_channels) * longest * SHORT_BYTES // LINE))
        m_element = LINE * odd_lines(blocks(spec.out_channels) * longest * SUM_BYTES // LINE)
        memory = self._scratch.borrow(ELEMENTS * (v_element + m_element) // 4, thread)
        fields = np.zeros((len(sizes), FIELDS), np.int64)
        sets: list[list[int]] = []
        items: list[list[int]] = []
        calls: list[tuple[int, int]] = []
        first_block, last_block = (0, blocks(spec.out_channels)) if by_tiles else (blocks(spec.out_channels), 0)
        start = first_tile
        for number, size in enumerate(sizes):
            self._fill(fields[number], size)
            begin = len(items)
            for p in _passes(spec, self.isa, size, packed.vectors):
                first, last = (0, p.count) if by_tiles else part(p.count, thread, threads)
                if not by_tiles and first < last:
                    first_block = min(first_block, (p.first + first * p.lanes) // BLOCK)
                    last_block = max(last_block, blocks(p.first + last * p.lanes))
                ahead = lines_at_once(p, 2 * WORD)
                listed = [(self._tile_address(t.columns, p.vectors, ahead), t.column) for t in p.cover.places()]
                channel, group = p.first + first * p.lanes, 2 * WORD * words * p.lanes
                items.append(
                    [
                        2 * WORD * words * channel,
                        channel // BLOCK * size * SUM_BYTES,
                        last - first,
                        group,
                        p.lanes // BLOCK * size * SUM_BYTES,
                        len(calls),
                        len(calls) + len(listed),
                        LINE * words * ahead,
                    ]
                )
                calls += listed
            at_fields = address_of(fields) + number * fields.strides[0]
            ends = begin, len(items)
            sets.append([start, start + size, v_element, size * SHORT_BYTES, m_element, size * SUM_BYTES, at_fields, *ends])
            start += size
        m, (top, _, left, _) = x.margin, spec.padding
        first_item = HEADER + SET * len(sets)
        first_call = first_item + ITEM * len(items)
        numbers = [
            *(self._down * self._across, self._across, spec.out_height, spec.out_width, len(sets)),
            *(at_x.address - top * at_x.row - left * IN_BYTES, at_x.image, at_x.row, at_x.block, blocks(spec.in_channels)),
            *(top + spec.height + m.bottom, left + spec.width + m.right),
            *(at_out.address, at_out.image, at_out.row, at_out.block, first_block, last_block),
            *(address_of(memory), address_of(memory) + ELEMENTS * v_element),
            *(address_of(packed.u), packed.u.strides[0], address_of(packed.ends)),
        ]
        for one in sets:
            numbers += [*one[:7], first_item + ITEM * one[7], first_item + ITEM * one[8]]
        for item in items:
            numbers += [*item[:5], first_call + TILE * item[5], first_call + TILE * item[6], item[7]]
        for call in calls:
            numbers += call
        return bind(driver(self.isa, self.dots.result), numbers, packed, memory, fields, x, out)

    def _tile_address(self, columns: int, vectors: int, ahead: int) -> int:
        tile = make_tile(self.isa, 1, columns, vectors, BLOCK_WORDS, self.isa.vector_length, coming=ahead)
        return tile_address(tile, Shorts(self.dots.product_by is Product.VNNI))

    def _fill(self, fields: NDArray[np.int64], tiles: int) -> None:
        """A matrix product for the micro-kernel: one row of tiles, kernel 1×1; and what the last transform reads."""
        channels = Channels.of(0, words_of(self.spec.in_channels), BLOCK_WORDS)
        fields[Field.FULL_BLOCKS] = channels.full_blocks
        fields[Field.BLOCK_STRIDE] = tiles * SHORT_BYTES
        fields[Field.OUT_BLOCK_STRIDE] = tiles * SUM_BYTES
        fields[Field.KERNEL_ROWS] = fields[Field.RUNS] = fields[Field.TAPS] = 1
        fields[Field.RUN_ROUNDS] = BLOCK_WORDS // 4
        fields[Field.PARTS] = len(channels.parts)
        for i, (block, word, words) in enumerate(channels.parts):
            fields[Field.PART_OFFSET + 2 * i] = block * tiles * SHORT_BYTES + 2 * WORD * word
            fields[Field.PART_LANES + 2 * i] = words
        fields[Field.CLAMP] = clamp_bounds(self.target.low - self.target.zero, self.target.high - self.target.zero)
        fields[Field.ZERO] = self.target.zero


def _passes(spec: ConvSpec, isa: Isa, tiles: int, vectors: int | None) -> tuple[Pass, ...]:
    words, lanes = words_of(spec.in_channels), blocks(spec.out_channels) * BLOCK
    return plan_passes(tile_isa(isa, Product.VNNI), 1, tiles, lanes, words, words, vectors)
