"""Depthwise convolution, and groups of 2, 4 or 8 channels: output lanes see input lanes of their own block only.

Here the vectors run along the channels of input, weights and output alike; nothing is broadcast. A group of s channels
needs each input vector s times, with its lanes rotated within the groups (a shuffle), and s times the weights:

    out[pixel, lane] += x[pixel + tap, s·⌊lane/s⌋ + j] · w[tap, j, lane]        j < s

Small kernels are unrolled and every input of a tile is loaded once; large ones loop over their taps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from llvmlite import ir

from fogconv.ir.arrays import Array
from fogconv.ir.geometry import BLOCK, ConvSpec
from fogconv.ir.memory.algorithm import is_depthwise
from fogconv.kernels.codegen import emit as v
from fogconv.kernels.codegen.emit import I32, I64, Builder, Value
from fogconv.kernels.codegen.epilogue import Epilogue
from fogconv.kernels.codegen.formulas import clamp
from fogconv.kernels.codegen.isa import Isa
from fogconv.kernels.codegen.jit import ready
from fogconv.kernels.codegen.native.functions import native_function
from fogconv.kernels.codegen.tile.fields import ARGUMENTS, FIELDS, Field, Flag, clamp_bounds
from fogconv.kernels.codegen.tile.results import emit_finish
from fogconv.kernels.codegen.tile.tile import Tile
from fogconv.kernels.conv.direct import clamp_flags
from fogconv.kernels.conv.tile_walk import part, run_direct, tile_table, walk_numbers
from fogconv.kernels.conv.tiling import Cover, split_evenly
from fogconv.kernels.maps.blocked import Blocked, Margin, aligned_zeros, blocks
from fogconv.kernels.maps.bound import PIXEL, SIGNATURE, Bound, Place, address_of, bind, place
from fogconv.kernels.maps.scratch import Scratch

UNROLLED_TAPS = 49
LONGEST_AHEAD = 8
"""Up to this stride the next rows are fetched ahead, and single rows are stepped over."""


@dataclass(frozen=True, slots=True)
class DepthTile:
    """One tile of a depthwise convolution. Strides and dilations are constants of the code."""

    rows: int
    columns: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    group: int
    """Channels per group: 1, 2, 4 or 8."""
    vl: int
    fused: bool
    lanes: int = BLOCK
    """Channels of the block: 16, or 8 of a last block that is at most half full."""


def can_run(spec: ConvSpec, isa: Isa) -> bool:
    """Whether every group has as many output channels as input channels, and fits into a vector."""
    return is_depthwise(spec, isa.vector_length)


def vector_lanes(isa: Isa) -> int:
    """Channels that are summed together: two registers on NEON, whose loads and stores are cheaper in pairs."""
    return 2 * isa.vector_length if isa.name == "neon" else isa.vector_length


def largest_tile(isa: Isa) -> tuple[int, int]:
    """The most rows and columns of an unrolled kernel's tile."""
    if isa.name == "neon":
        return 1, 7
    return (2, 7) if isa.registers > 16 else (1, 6)


@cache
def tile_address(tile: DepthTile) -> int:
    return native_function(_emit, tile, arguments=ARGUMENTS)


def _emit(builder: Builder, tile: DepthTile, *addresses: Value) -> None:
    """As `fogconv.kernels.codegen.microkernel` calls its tiles, which also read ahead."""
    emit_tile(builder, tile, *addresses[:-1])


def emit_tile(
    builder: Builder, tile: DepthTile, fields: Value, x: Value, weights: Value, bias: Value, out: Value, residual: Value
) -> None:
    """The code of one tile: the channels of a block, vl at a time. Weights are [tap][j][16]."""
    row_stride = v.load_i64(builder, fields, Field.ROW_STRIDE)
    taps = tile.kernel[0] * tile.kernel[1]
    emit_sums = _unrolled if taps <= UNROLLED_TAPS else _looped

    def part(now: Sequence[Value]) -> list[Value]:
        x, weights, bias, out, residual = now
        start = v.repeated(builder, bias, tile.vl, tile.rows * tile.columns)
        sums = emit_sums(builder, tile, row_stride, x, weights, start)
        vl = tile.vl
        if vl == tile.lanes < BLOCK:  # one store for the whole block, zeros in the unused lanes
            zero, vl = v.constant(vl, 0.0), BLOCK
            sums = [v.pick(builder, value, zero, [min(lane, tile.vl) for lane in range(BLOCK)]) for value in sums]
        emit_finish(builder, Tile(tile.rows, tile.columns, 1, 0, vl), fields, sums, out, residual)
        return [v.shifted(builder, address, 4 * tile.vl) for address in now]

    v.loop(builder, I64(tile.lanes // tile.vl), [x, weights, bias, out, residual], part, at_least_once=True)


def _rotations(builder: Builder, tile: DepthTile, value: Value) -> list[Value]:
    """The input vector, rotated for each of the s products."""
    if tile.group == 1:
        return [value]
    s = tile.group
    masks = [[s * (lane // s) + j for lane in range(tile.vl)] for j in range(s)]
    undefined = ir.Constant(value.type, ir.Undefined)
    integers = ir.VectorType(I32, tile.vl)
    return [builder.shuffle_vector(value, undefined, ir.Constant(integers, mask)) for mask in masks]


def _unrolled(
    builder: Builder, tile: DepthTile, row_stride: Value, x: Value, weights: Value, start: list[Value]
) -> list[Value]:
    (kh, kw), (down, right), (dh, dw), s = tile.kernel, tile.stride, tile.dilation, tile.group
    sums = list(start)
    users: dict[int, list[tuple[int, int]]] = {}
    for r in range(tile.rows):
        for i in range(kh):
            users.setdefault(r * down + i * dh, []).append((r, i))
    columns: dict[int, list[tuple[int, int]]] = {}
    for c in range(tile.columns):
        for j in range(kw):
            columns.setdefault(c * right + j * dw, []).append((c, j))
    # Prefetch the next band's new rows while this one is computed: one map is read in a few long streams only. Code for
    # each pixel of a long stride would take hours to compile.
    ahead = v.shifted(builder, x, builder.mul(row_stride, I64(max(users) + 1)))
    for _ in range(tile.rows * down if tile.vl == BLOCK and max(down, right) <= LONGEST_AHEAD else 0):
        for column in range(tile.columns * right):
            v.prefetch(builder, ahead, PIXEL * column)
        ahead = v.shifted(builder, ahead, row_stride)
    row, previous = x, 0
    for line, uses in sorted(users.items()):
        if line - previous > LONGEST_AHEAD:
            row = v.shifted(builder, row, builder.mul(row_stride, I64(line - previous)))
        else:
            for _ in range(line - previous):
                row = v.shifted(builder, row, row_stride)
        previous = line
        for column, pairs in sorted(columns.items()):
            turned = _rotations(builder, tile, v.load(builder, row, tile.vl, PIXEL * column))
            for r, i in uses:
                for c, j in pairs:
                    for q in range(s):
                        w = v.load(builder, weights, tile.vl, PIXEL * ((i * kw + j) * s + q))
                        at = r * tile.columns + c
                        sums[at] = v.fma(builder, turned[q], w, sums[at], tile.fused)
    return sums


def _looped(
    builder: Builder, tile: DepthTile, row_stride: Value, x: Value, weights: Value, start: list[Value]
) -> list[Value]:
    kh, kw = tile.kernel
    down, right = tile.stride

    def tap(now: Sequence[Value]) -> list[Value]:
        *sums, x, weights = now
        w = [v.load(builder, weights, tile.vl, PIXEL * q) for q in range(tile.group)]
        row = x
        for r in range(tile.rows):
            for _ in range(down if r else 0):
                row = v.shifted(builder, row, row_stride)
            for c in range(tile.columns):
                turned = _rotations(builder, tile, v.load(builder, row, tile.vl, PIXEL * c * right))
                for q in range(tile.group):
                    at = r * tile.columns + c
                    sums[at] = v.fma(builder, turned[q], w[q], sums[at], tile.fused)
        return [*sums, v.shifted(builder, x, PIXEL * tile.dilation[1]), v.shifted(builder, weights, PIXEL * tile.group)]

    def kernel_row(now: Sequence[Value]) -> list[Value]:
        *_, x, _ = now
        *sums, _, weights = v.loop(builder, I64(kw), now, tap, at_least_once=True)
        return [*sums, v.shifted(builder, x, builder.mul(row_stride, I64(tile.dilation[0]))), weights]

    carried = [*start, x, weights]
    *sums, _, _ = v.loop(builder, I64(kh), carried, kernel_row, at_least_once=True)
    return list(sums)


class DepthwiseKernel:
    """Packed weights [block][tap][j][16] and everything that does not depend on addresses."""

    algorithm = "depthwise"
    exact = True

    def __init__(self, spec: ConvSpec, isa: Isa, activation: str | None, weights: Array, bias: Array) -> None:
        self.spec, self.isa, self.activation = spec, isa, activation
        self.weights, self.bias = weights, bias
        rows, longest = largest_tile(isa)
        if spec.kernel[0] * spec.kernel[1] > UNROLLED_TAPS:
            rows, longest = 1, 12
        full, rest = divmod(spec.out_height, min(rows, spec.out_height))
        bands = (min(rows, spec.out_height),) * full + ((rest,) if rest else ())
        self.cover = Cover(bands, split_evenly(spec.out_width, longest))
        ready(run_direct, SIGNATURE)
        half = 0 < spec.out_channels % BLOCK <= BLOCK // 2
        self._whole_blocks = blocks(spec.out_channels) - half
        sizes = {BLOCK} if not half else {BLOCK // 2} if spec.out_channels < BLOCK else {BLOCK // 2, BLOCK}
        self._addresses = {
            (lanes, *shape): tile_address(self._tile(*shape, lanes)) for lanes in sizes for shape in self.cover.shapes
        }

    @staticmethod
    def prepare(spec: ConvSpec, isa: Isa, weight: Array, bias: Array | None, activation: str | None) -> DepthwiseKernel:
        f, s, kh, kw = weight.shape
        lanes = blocks(f) * BLOCK
        weights, biases = aligned_zeros((lanes // BLOCK, kh * kw, s, BLOCK)), aligned_zeros((lanes,))
        padded = np.zeros((lanes, s, kh, kw), np.float32)
        padded[:f] = weight
        weights[:] = padded.reshape(-1, BLOCK, s, kh * kw).transpose(0, 3, 2, 1)
        if bias is not None:
            biases[:f] = bias
        return DepthwiseKernel(spec, isa, activation, weights, biases)

    def at(self, spec: ConvSpec, scratch: Scratch | None = None) -> DepthwiseKernel:
        return DepthwiseKernel(spec, self.isa, self.activation, self.weights, self.bias)

    def moved(self, place: Callable[[Array], Array]) -> DepthwiseKernel:
        return DepthwiseKernel(self.spec, self.isa, self.activation, place(self.weights), self.bias)

    def unpack(self) -> tuple[Array, Array | None]:
        f, s, kh, kw = self.spec.weight_shape
        weight = self.weights.transpose(0, 3, 2, 1).reshape(-1, s, kh, kw)[:f]
        return np.ascontiguousarray(weight), self.bias[:f].copy()

    def warm(self, threads: int) -> None:
        """Everything was compiled when the kernel was made."""

    @property
    def wanted_margin(self) -> Margin:
        return Margin(*self.spec.padding)

    @property
    def weight_bytes(self) -> int:
        return self.weights.nbytes + self.bias.nbytes

    def _tile(self, rows: int, columns: int, lanes: int) -> DepthTile:
        s, vl = self.spec, min(vector_lanes(self.isa), lanes)
        return DepthTile(rows, columns, s.kernel, s.stride, s.dilation, s.in_channels // s.groups, vl, self.isa.fused, lanes)

    def bind(self, x: Blocked, out: Blocked, residual: Blocked | None, thread: int, threads: int) -> Bound:
        spec = self.spec
        at_x, at_out = place("the input", x), place("the output", out)
        at_residual = place("the residual", residual) if residual is not None else Place(0, 0, 0, 0)
        fields = np.zeros(FIELDS, np.int64)
        fields[Field.ROW_STRIDE] = at_x.row
        fields[Field.OUT_ROW_STRIDE] = at_out.row
        fields[Field.RESIDUAL_ROW_STRIDE] = at_residual.row
        bounds = clamp(self.activation)
        fields[Field.FLAGS] = (Flag.RESIDUAL if residual is not None else 0) | clamp_flags(bounds)
        if bounds is not None:
            fields[Field.CLAMP] = clamp_bounds(*bounds)
        all_blocks = blocks(spec.out_channels)
        by_blocks = all_blocks >= threads
        first, last = part(all_blocks, thread, threads) if by_blocks else (0, all_blocks)
        start, stop = (0, len(self.cover.bands)) if by_blocks else part(len(self.cover.bands), thread, threads)
        weights_step = self.weights.strides[0]
        items: list[list[int]] = []
        tiles, end_tile = [], 0
        for lanes, begin, end in (
            (BLOCK, first, min(last, self._whole_blocks)),
            (BLOCK // 2, max(first, self._whole_blocks), last),
        ):
            if begin >= end:
                continue
            addresses = {shape: self._addresses[lanes, *shape] for shape in self.cover.shapes}
            steps = (spec.stride[0] * at_x.row, spec.stride[1] * PIXEL)
            tiles.append(tile_table(self.cover, start, stop, addresses, steps, at_out, at_residual))
            first_tile, end_tile = end_tile, end_tile + len(tiles[-1])
            items.append(
                [
                    address_of(fields),
                    at_x.address - spec.padding[0] * at_x.row - spec.padding[2] * PIXEL + begin * at_x.block,
                    address_of(self.weights) + begin * weights_step,
                    address_of(self.bias) + begin * PIXEL,
                    at_out.address + begin * at_out.block,
                    at_residual.address + begin * at_residual.block,
                    end - begin,
                    weights_step,
                    PIXEL,
                    at_out.block,
                    at_residual.block,
                    first_tile,
                    end_tile,
                    1,
                    at_x.block,
                    0,
                ]
            )
        epilogue = Epilogue.of(self.activation)
        numbers = walk_numbers(spec.batch, at_x, at_out, at_residual, epilogue, items, tiles)
        return bind(run_direct, numbers, fields, self, x, out, residual, epilogue)
