"""Depthwise convolution on bytes: as many output channels as input channels and groups.

Vectors run along the channels of a block, as in `fogconv.kernels.conv.depthwise`. Where the CPU sums four products of bytes
at once, a word is one channel of four adjacent pixels: 64 bytes of a row, with bytes and channels transposed by one
permutation, meet four taps of a row of the kernel, and each such vector serves all rows of the tile that it lies under.

    sum[pixel, lane] += Σ_t x[pixel + t, lane] · w[row, t, lane]        t < 4

Elsewhere each tap is a product of 16-bit numbers (vpmaddwd, smlal), which LLVM picks itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from llvmlite import ir
from numpy.typing import NDArray

from fogconv.ir.geometry import BLOCK, ConvSpec
from fogconv.kernels.codegen import emit as v
from fogconv.kernels.codegen.emit import I8, I32, I64, Builder, Value
from fogconv.kernels.codegen.epilogue import Epilogue
from fogconv.kernels.codegen.isa import Isa
from fogconv.kernels.codegen.jit import ready
from fogconv.kernels.codegen.native.functions import native_function
from fogconv.kernels.codegen.tile.fields import ARGUMENTS, FIELDS, Field, clamp_bounds
from fogconv.kernels.codegen.tile.tile import Tile
from fogconv.kernels.conv.depthwise import UNROLLED_TAPS
from fogconv.kernels.conv.tile_walk import part, run_direct, tile_table, walk_numbers
from fogconv.kernels.conv.tiling import Cover, split_evenly
from fogconv.kernels.maps.blocked import Blocked, aligned_zeros, blocks
from fogconv.kernels.maps.bound import SIGNATURE, Bound, Place, address_of, bind, place
from fogconv.kernels.maps.scratch import Scratch
from fogconv.kernels.quantized.arithmetic import I16, WORD, Dots, Product, Result, bias_of
from fogconv.kernels.quantized.numbers import Floats, Sums, Target, Weights


@dataclass(frozen=True, slots=True)
class DepthTile:
    """One tile: rows × columns of outputs of one block. Strides and dilations are constants of the code."""

    rows: int
    columns: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    vl: int
    by_words: bool
    """Whether four taps of a row are summed at once."""


def can_run(spec: ConvSpec) -> bool:
    return spec.groups == spec.in_channels == spec.out_channels > 1 and spec.kernel[0] * spec.kernel[1] <= UNROLLED_TAPS


def by_words(spec: ConvSpec, isa: Isa, product: Product) -> bool:
    """Whether adjacent taps lie side by side, and a vector holds a word of each channel of a block."""
    return product is Product.VNNI and isa.vector_length == BLOCK and spec.dilation[1] == 1


def largest_tile(isa: Isa, words: bool, stride: int) -> tuple[int, int]:
    """The most rows and columns of a tile; four columns are a cache line of bytes."""
    if words:
        return (7, 4) if stride == 1 else (4, 6)
    if isa.vector_length == BLOCK:
        return 2, 7
    return 1, 16 // (BLOCK // isa.vector_length) if isa.registers > 16 else 4


@cache
def tile_address(tile: DepthTile, dots: Dots) -> int:
    return native_function(emit_tile, tile, dots, arguments=ARGUMENTS)


def emit_tile(
    builder: Builder,
    tile: DepthTile,
    dots: Dots,
    fields: Value,
    x: Value,
    weights: Value,
    bias: Value,
    out: Value,
    residual: Value,
    ahead: Value,
) -> None:
    """The code of one tile."""
    vectors = BLOCK // tile.vl
    row_stride = v.load_i64(builder, fields, Field.ROW_STRIDE)
    start = [dots.start(builder, bias, tile.vl, 4 * tile.vl * n) for n in range(vectors)]
    sums = start * (tile.rows * tile.columns)
    users: dict[int, list[tuple[int, int]]] = {}
    for r in range(tile.rows):
        for i in range(tile.kernel[0]):
            users.setdefault(r * tile.stride[0] + i * tile.dilation[0], []).append((r, i))
    emit_line = _line_by_words if tile.by_words else _line_by_taps
    for line, uses in sorted(users.items()):
        row = v.shifted(builder, x, builder.mul(row_stride, I64(line)))
        emit_line(builder, tile, dots, row, weights, uses, sums)
    dots.finish(builder, Tile(tile.rows, tile.columns, vectors, 0, tile.vl), fields, bias, sums, out, residual)


def _line_by_words(
    builder: Builder,
    tile: DepthTile,
    dots: Dots,
    row: Value,
    weights: Value,
    uses: Sequence[tuple[int, int]],
    sums: list[Value],
) -> None:
    """One line of the input. Weights are [K_h][word of taps][16][4]."""
    words = -(-tile.kernel[1] // WORD)
    turned = [BLOCK * pixel + lane for lane in range(BLOCK) for pixel in range(WORD)]
    for word in range(words):
        taps = min(WORD, tile.kernel[1] - word * WORD)
        for c in range(tile.columns):
            value = _pixels(builder, row, BLOCK * (c * tile.stride[1] + word * WORD), taps)
            value = v.pick(builder, value, value, turned)
            for r, i in uses:
                w = v.load(builder, weights, BLOCK, 4 * BLOCK * (i * words + word))
                at = r * tile.columns + c
                sums[at] = dots.product(builder, builder.bitcast(value, w.type), w, sums[at])


def _pixels(builder: Builder, row: Value, offset: int, count: int) -> Value:
    """Up to four adjacent pixels of a block; of those not wanted nothing is read."""
    many = ir.VectorType(I8, BLOCK * WORD)
    address = v.pointer(builder, row, many, offset)
    if count == WORD:
        value = builder.load(address)
        value.align = 1
        return value
    module, name = builder.module, "llvm.masked.load.v64i8.p0"
    mask = ir.VectorType(ir.IntType(1), BLOCK * WORD)
    signature = ir.FunctionType(many, [address.type, I32, mask, many])
    function = module.globals.get(name) or ir.Function(module, signature, name)
    wanted = ir.Constant(mask, [lane < BLOCK * count for lane in range(BLOCK * WORD)])
    return builder.call(function, [address, I32(1), wanted, ir.Constant(many, [0] * BLOCK * WORD)])


def _line_by_taps(
    builder: Builder,
    tile: DepthTile,
    dots: Dots,
    row: Value,
    weights: Value,
    uses: Sequence[tuple[int, int]],
    sums: list[Value],
) -> None:
    """The same by single taps. Weights are [K_h][K_w][16] of 16 bits."""
    vl, vectors, kw = tile.vl, BLOCK // tile.vl, tile.kernel[1]
    columns: dict[int, list[tuple[int, int]]] = {}
    for c in range(tile.columns):
        for j in range(kw):
            columns.setdefault(c * tile.stride[1] + j * tile.dilation[1], []).append((c, j))
    wide = ir.VectorType(I32, vl)

    def loaded(address: Value, kind: Any, offset: int) -> Value:
        value = builder.load(v.pointer(builder, address, ir.VectorType(kind, vl), offset))
        value.align = 1
        return value

    for column, pairs in sorted(columns.items()):
        for n in range(vectors):
            short = builder.zext(loaded(row, I8, BLOCK * column + vl * n), ir.VectorType(I16, vl))
            value = builder.sext(short, wide)
            for r, i in uses:
                for c, j in pairs:
                    w = builder.sext(loaded(weights, I16, 2 * (BLOCK * (i * kw + j) + vl * n)), wide)
                    at = (r * tile.columns + c) * vectors + n
                    sums[at] = builder.add(sums[at], builder.mul(value, w))


@dataclass(frozen=True)
class PackedDepthwise:
    """Weights by block, and each block's biases and multipliers."""

    weights: NDArray[Any]
    ends: NDArray[np.int32]

    @property
    def nbytes(self) -> int:
        return self.weights.nbytes + self.ends.nbytes


def pack(spec: ConvSpec, weight: Weights, bias: Sums, multipliers: Floats, words: bool) -> PackedDepthwise:
    """(C, 1, K_h, K_w) int8, (C,) int32, (C,) float32 → the order of the tiles."""
    c, (kh, kw) = spec.out_channels, spec.kernel
    count = blocks(c)
    wide = -(-kw // WORD) * WORD if words else kw
    padded = np.zeros((count * BLOCK, kh, wide), np.int8)
    padded[:c, :, :kw] = weight[:, 0]
    ends = aligned_zeros((count, 2, BLOCK), kind=np.int32)
    for row, values in ((0, bias), (1, multipliers.view(np.int32))):
        own = np.zeros(count * BLOCK, np.int32)
        own[:c] = values
        ends[:, row] = own.reshape(count, BLOCK)
    if words:
        weights = aligned_zeros((count, kh, wide // WORD, BLOCK, WORD), kind=np.int8)
        weights[...] = padded.reshape(count, BLOCK, kh, -1, WORD).transpose(0, 2, 3, 1, 4)
    else:
        weights = aligned_zeros((count, kh, kw, BLOCK), kind=np.int16)
        weights[...] = padded.reshape(count, BLOCK, kh, kw).transpose(0, 2, 3, 1)
    return PackedDepthwise(weights, ends)


class DepthwiseBytes:
    """Packed weights and everything that does not depend on addresses."""

    wanted_lanes = BLOCK

    def __init__(self, spec: ConvSpec, isa: Isa, dots: Dots, target: Target, packed: PackedDepthwise) -> None:
        self.spec, self.isa, self.dots, self.target, self.packed = spec, isa, dots, target, packed
        words = packed.weights.dtype == np.int8
        rows, longest = largest_tile(isa, words, spec.stride[0])
        rows = min(rows, spec.out_height)
        full, rest = divmod(spec.out_height, rows)
        self.cover = Cover((rows,) * full + ((rest,) if rest else ()), split_evenly(spec.out_width, longest))
        ready(run_direct, SIGNATURE)
        self._addresses = {
            shape: tile_address(DepthTile(*shape, spec.kernel, spec.stride, spec.dilation, isa.vector_length, words), dots)
            for shape in self.cover.shapes
        }

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
    ) -> DepthwiseBytes:
        words = by_words(spec, isa, product)
        own = Product.VNNI if words else Product.PLAIN
        bias = bias_of(own, bias, weight.sum(axis=(1, 2, 3), dtype=np.int64), zero_x)
        return DepthwiseBytes(spec, isa, Dots(own, result), target, pack(spec, weight, bias, multipliers, words))

    def at(self, spec: ConvSpec, scratch: Scratch | None = None) -> DepthwiseBytes:
        """The same layer at another input size, padding or batch."""
        return DepthwiseBytes(spec, self.isa, self.dots, self.target, self.packed)

    def bind(self, x: Blocked, out: Blocked, thread: int, threads: int) -> Bound:
        """The call that computes one thread's share: some of the blocks, or some rows where there are few."""
        spec, packed, size = self.spec, self.packed, self.dots.out_bytes
        at_x = place("the input", x, kind=np.uint8)
        at_out = place("the output", out, kind=self.dots.result.kind)
        nowhere = Place(0, 0, 0, 0)
        fields = np.zeros(FIELDS, np.int64)
        fields[Field.ROW_STRIDE] = at_x.row
        fields[Field.OUT_ROW_STRIDE] = at_out.row
        fields[Field.CLAMP] = clamp_bounds(self.target.low - self.target.zero, self.target.high - self.target.zero)
        fields[Field.ZERO] = self.target.zero
        count = blocks(spec.out_channels)
        by_blocks = count >= threads
        first, last = part(count, thread, threads) if by_blocks else (0, count)
        start, stop = (0, len(self.cover.bands)) if by_blocks else part(len(self.cover.bands), thread, threads)
        steps = (spec.stride[0] * at_x.row, spec.stride[1] * BLOCK)
        tiles = tile_table(self.cover, start, stop, self._addresses, steps, at_out, nowhere, BLOCK * size)
        item = [
            address_of(fields),
            at_x.address - spec.padding[0] * at_x.row - spec.padding[2] * BLOCK + first * at_x.block,
            address_of(packed.weights) + first * packed.weights.strides[0],
            address_of(packed.ends) + first * packed.ends.strides[0],
            at_out.address + first * at_out.block,
            0,
            last - first,
            packed.weights.strides[0],
            packed.ends.strides[0],
            at_out.block,
            0,
            0,
            len(tiles),
            1,
            at_x.block,
            0,
        ]
        numbers = walk_numbers(spec.batch, at_x, at_out, nowhere, Epilogue(), [item], [tiles])
        return bind(run_direct, numbers, fields, packed, x, out)
