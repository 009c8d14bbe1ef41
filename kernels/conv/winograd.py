"""Winograd convolution: F(4×4, 3×3) has 36 products per 16 outputs instead of 144, F(2×2, 3×3) 16 per 4 instead of 36, and
F(6×6, 3×3), for large maps, 64 per 36 instead of 324.

Kernels of 5×5 and of 1×3 … 7×1 work the same way. For a set of tiles at a time, of any images: transform their inputs
into V, multiply the matrices, one per element, with the micro-kernel of direct convolution (a tile takes the place of a
pixel), transform the products M into the output.

Maps of 16 bits are read and written by the transforms: V, U, M and all sums are in fp32, so that the error is that of fp32
and one rounding of each result. U in 16 bits would be half as much to read where it comes from memory, but G magnifies its
roundings: results of F(4×4, 3×3) were off by 12 units of one rounding, 4.5 % of the largest in bf16.

    V  [element][input block][tile][16]    U  [element][group][input channel][lane]    M  [element][output block][tile][16]

The elements of V and of M are an odd number of cache lines apart, so that they do not all map to one set of the cache.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
from numba.core import types

from fogconv.errors import KernelError
from fogconv.ir.arrays import Array, is_blank
from fogconv.ir.geometry import BLOCK, BYTES_PER_ELEMENT, ConvSpec
from fogconv.ir.memory.algorithm import (
    LEAST_TILES,
    odd_lines,
    winograd_outputs,
    winograd_reach,
    winograd_sets,
    winograd_tiles,
)
from fogconv.ir.precision.elements import ELEMENT_BYTES, HALVES, WEIGHTS_OF, Element, element_of
from fogconv.ir.precision.halves import floats
from fogconv.kernels.codegen.epilogue import Epilogue, call_epilogue
from fogconv.kernels.codegen.formulas import clamp
from fogconv.kernels.codegen.isa import Isa
from fogconv.kernels.codegen.jit import jit, ready
from fogconv.kernels.codegen.microkernel import tile_address
from fogconv.kernels.codegen.native.calls import call_tile
from fogconv.kernels.codegen.quads import QUAD, quad_steps
from fogconv.kernels.codegen.tile.fields import FIELDS, LINE, Field, Flag
from fogconv.kernels.codegen.tile.tile import make_tile
from fogconv.kernels.conv.direct import check_clamp, clamp_flags, lines_at_once
from fogconv.kernels.conv.packed_weights import Channels
from fogconv.kernels.conv.tile_walk import part
from fogconv.kernels.conv.tiling import Pass, cut, plan_passes
from fogconv.kernels.conv.winograd_matrices import Form, weight_matrices
from fogconv.kernels.conv.winograd_transforms import input_intrinsic, output_intrinsic
from fogconv.kernels.maps.blocked import Blocked, Margin, aligned_zeros, blocks
from fogconv.kernels.maps.bound import PIXEL, SIGNATURE, Bound, Place, address_of, bind, place
from fogconv.kernels.maps.scratch import Scratch

HEADER, BLOCK_NUMBERS, ITEM, TILE = 32, 10, 8, 2


def form_of(spec: ConvSpec, m: int) -> Form | None:
    """The form with m (2, 4 or 6) outputs per transformed dimension; None where the shape forbids it."""
    outputs = winograd_outputs(spec, m)
    return None if outputs is None else Form(outputs, spec.kernel)


@cache
def driver(form: Form, isa: Isa, read: Element = "fp32", made: Element = "fp32") -> Any:
    """The compiled function that walks the numbers of `WinogradKernel.bind`. ``read``, ``made``: the elements of the input,
    and of the output and the residual."""
    transform_input, transform_output = input_intrinsic(form, isa, read), output_intrinsic(form, isa, made)
    x_pixel, out_pixel = (BLOCK * ELEMENT_BYTES[element] for element in (read, made))
    down, right = form.outputs
    elements = form.elements

    @jit
    def run_winograd(a):  # type: ignore[no-untyped-def]
        per_image, x_image, out_image, residual_image, epilogue = a[:5]
        x, x_row, x_block, x_blocks, x_rows, x_columns = a[5:11]
        out, out_row, out_block, out_first, out_last = a[11:16]
        residual, residual_row, residual_block = a[16:19]
        v, products, weights_start, weights_element = a[19:23]
        bias, zeros, flags, clamp = a[23:27]
        across, height, width, sets, parameters = a[27:32]
        for number in range(sets):
            at = HEADER + BLOCK_NUMBERS * number
            first, last, v_element, v_block, m_element, m_block, fields, items, items_end = a[at : at + 9]
            for block in range(x_blocks):
                to = v + block * v_block
                for tile in range(first, last):
                    image, place = tile // per_image, tile % per_image
                    row, column = down * (place // across), right * (place % across)
                    start = x + image * x_image + block * x_block + row * x_row + x_pixel * column
                    transform_input(start, x_row, x_rows - row, x_columns - column, to, v_element)
                    to += 64
            for element in range(elements):
                for item in range(items, items_end, ITEM):
                    weights = weights_start + element * weights_element + a[item]
                    to = products + element * m_element + a[item + 1]
                    for _group in range(a[item + 2]):
                        coming = weights + a[item + 3]
                        end = coming + a[item + 3] - a[item + 7]
                        for tile in range(a[item + 5], a[item + 6], TILE):
                            offset = a[tile + 1]
                            start = v + element * v_element + offset
                            call_tile(a[tile], fields, start, weights, zeros, to + offset, 0, coming)
                            coming = min(coming + a[item + 7], end)
                        weights += a[item + 3]
                        to += a[item + 4]
            for block in range(out_first, out_last):
                start = products + block * m_block
                for tile in range(first, last):
                    image, place = tile // per_image, tile % per_image
                    row, column = down * (place // across), right * (place % across)
                    to = out + image * out_image + block * out_block + row * out_row + out_pixel * column
                    more = residual + image * residual_image + block * residual_block + row * residual_row
                    more += out_pixel * column
                    rows, columns = height - row, width - column
                    transform_output(
                        start, m_element, bias + 64 * block, to, out_row, more, residual_row, rows, columns, flags, clamp
                    )
                    start += 64
                    if epilogue != 0:
                        call_epilogue(epilogue, to, out_row, min(down, rows), min(right, columns), parameters)

    return run_winograd


@dataclass(frozen=True)
class WinogradWeights:
    """U and the bias. U can't be turned back exactly."""

    u: Array
    bias: Array
    vectors: int
    """Vectors of output channels per group."""


class WinogradKernel:
    """U and everything that does not depend on addresses."""

    exact = False

    def __init__(
        self, spec: ConvSpec, isa: Isa, form: Form, activation: str | None, packed: WinogradWeights, scratch: Scratch
    ) -> None:
        self.spec, self.isa, self.form, self.activation = spec, isa, form, activation
        self.algorithm = f"winograd{max(form.outputs)}"
        self._packed, self._scratch = packed, scratch
        self._down, self._across = winograd_tiles(spec, form.outputs)
        self._tiles = spec.batch * self._down * self._across
        # What an activation that is no clamp follows is made in fp32.
        self._usual_made: Element = spec.element if activation is None or clamp(activation) is not None else "fp32"
        ready(driver(form, isa, self.reads, self._usual_made), SIGNATURE)

    @property
    def reads(self) -> Element:
        """The element of the maps that it reads."""
        return self.spec.element

    def warm(self, threads: int) -> None:
        """Compile what ``bind`` will need for so many threads."""
        for thread in range(threads):
            first, last = self._tiles_of(thread, threads)
            for tiles in self._set_sizes(last - first):
                for p in self._passes(tiles):
                    self._addresses(p)

    def _by_tiles(self, threads: int) -> bool:
        """Whether threads share the tiles, or the output channels where tiles are few."""
        few = self._tiles < 2 * LEAST_TILES * threads
        return threads == 1 or not few or blocks(self.spec.out_channels) < 2 * threads

    def _tiles_of(self, thread: int, threads: int) -> tuple[int, int]:
        return part(self._tiles, thread, threads) if self._by_tiles(threads) else (0, self._tiles)

    @staticmethod
    def prepare(
        spec: ConvSpec, isa: Isa, form: Form, weight: Array, bias: Array | None, activation: str | None, scratch: Scratch
    ) -> WinogradKernel:
        down, across = winograd_tiles(spec, form.outputs)
        tiles = max(winograd_sets(spec, form.elements, spec.batch * down * across))
        passes = plan_passes(isa, 1, tiles, spec.out_channels, spec.in_channels, quad_steps(spec.in_channels))
        return WinogradKernel(spec, isa, form, activation, pack(weight, bias, form, isa, passes[0].vectors), scratch)

    def at(self, spec: ConvSpec, scratch: Scratch | None = None) -> WinogradKernel:
        return WinogradKernel(spec, self.isa, self.form, self.activation, self._packed, scratch or self._scratch)

    def moved(self, place: Callable[[Array], Array]) -> WinogradKernel:
        packed = replace(self._packed, u=place(self._packed.u))
        return WinogradKernel(self.spec, self.isa, self.form, self.activation, packed, self._scratch)

    def unpack(self) -> tuple[Array, Array | None]:
        raise KernelError(f"{self.algorithm}'s weights can't be unpacked; prepare {self.spec} from the plain ones")

    @property
    def wanted_margin(self) -> Margin:
        """Enough for whole tiles to the right and below."""
        top, bottom, left, right = self.spec.padding
        below, beside = winograd_reach(self.spec, self.form.outputs)
        return Margin(top, max(bottom, below), left, max(right, beside))

    @property
    def weight_bytes(self) -> int:
        return self._packed.u.nbytes + self._packed.bias.nbytes

    def _set_sizes(self, tiles: int) -> tuple[int, ...]:
        return winograd_sets(self.spec, self.form.elements, tiles)

    def _passes(self, tiles: int) -> tuple[Pass, ...]:
        spec = self.spec
        steps = quad_steps(spec.in_channels)
        return plan_passes(self.isa, 1, tiles, spec.out_channels, spec.in_channels, steps, self._packed.vectors)

    def _addresses(self, p: Pass) -> list[tuple[int, int]]:
        """(address, bytes from the first tile) of the micro-kernels that cover a set of tiles."""
        return [
            (
                tile_address(
                    make_tile(self.isa, 1, t.columns, p.vectors, BLOCK, p.vl, coming=lines_at_once(p, BYTES_PER_ELEMENT))
                ),
                PIXEL * t.column,
            )
            for t in p.cover.places()
        ]

    def bind(self, x: Blocked, out: Blocked, residual: Blocked | None, thread: int, threads: int) -> Bound:
        """The call that does one thread's share: some of the tiles, or of the output channels where tiles are few.

        Where the spec is of 16 bits, ``out`` may be, too, and with it the residual. Raises KernelError where an activation
        that is no clamp would then have to follow."""
        spec, a2 = self.spec, self.form.elements
        made = element_of(out.data) if spec.element in HALVES else "fp32"
        kind = WEIGHTS_OF[made]
        at_x, at_out = place("the input", x, kind=WEIGHTS_OF[self.reads]), place("the output", out, kind=kind)
        at_residual = place("the residual", residual, kind=kind) if residual is not None else Place(0, 0, 0, 0)
        check_clamp(self.activation, made)
        out_blocks = blocks(spec.out_channels)
        by_tiles = self._by_tiles(threads)
        first_tile, last_tile = self._tiles_of(thread, threads)
        sizes = self._set_sizes(last_tile - first_tile)
        longest = max(sizes, default=0)
        v_element, m_element = (PIXEL * odd_lines(blocks(c) * longest) for c in (spec.in_channels, spec.out_channels))
        memory = self._scratch.borrow(a2 * (v_element + m_element) // 4, thread)
        epilogue, bounds = Epilogue.of(self.activation), clamp(self.activation)
        flags = (Flag.RESIDUAL if residual is not None else 0) | clamp_flags(bounds)
        limits = np.array(bounds or (0.0, 0.0), np.float32)
        zeros = aligned_zeros((BLOCK * 4,))
        fields = np.zeros((len(sizes), FIELDS), np.int64)
        sets: list[list[int]] = []
        items: list[list[int]] = []
        calls: list[tuple[int, int]] = []
        first_block, last_block = 0, out_blocks
        start = first_tile
        for number, size in enumerate(sizes):
            _fill(fields[number], spec.in_channels, size)
            begin = len(items)
            for p in self._passes(size):
                first, last = (0, p.count) if by_tiles else part(p.count, thread, threads)
                listed = self._addresses(p)
                channel = p.first + first * p.lanes
                items.append(
                    [
                        4 * spec.in_channels * channel,
                        channel // BLOCK * size * PIXEL,
                        last - first,
                        4 * p.lanes * spec.in_channels,
                        p.lanes // BLOCK * size * PIXEL,
                        len(calls),
                        len(calls) + len(listed),
                        LINE * spec.in_channels * lines_at_once(p, BYTES_PER_ELEMENT),
                    ]
                )
                calls += listed
            sets.append(
                [
                    start,
                    start + size,
                    v_element,
                    size * PIXEL,
                    m_element,
                    size * PIXEL,
                    address_of(fields) + number * fields.strides[0],
                    begin,
                    len(items),
                    0,
                ]
            )
            start += size
        if not by_tiles:
            first_block, last_block = self._blocks_of(thread, threads)
        m = x.margin
        first_item = HEADER + BLOCK_NUMBERS * len(sets)
        first_call = first_item + ITEM * len(items)
        header = [
            *(self._down * self._across, at_x.image, at_out.image, at_residual.image),
            epilogue.numbers[0],
            at_x.address - spec.padding[0] * at_x.row - spec.padding[2] * BLOCK * x.data.itemsize,
            *(at_x.row, at_x.block, blocks(spec.in_channels)),
            *(spec.padding[0] + spec.height + m.bottom, spec.padding[2] + spec.width + m.right),
            *(at_out.address, at_out.row, at_out.block, first_block, last_block),
            *(at_residual.address, at_residual.row, at_residual.block),
            *(address_of(memory), address_of(memory) + a2 * v_element),
            *(address_of(self._packed.u), self._packed.u.nbytes // a2),
            *(address_of(self._packed.bias), address_of(zeros), int(flags), address_of(limits)),
            *(self._across, spec.out_height, spec.out_width, len(sets), epilogue.numbers[1]),
        ]
        numbers = header
        for one in sets:
            numbers += [*one[:7], first_item + ITEM * one[7], first_item + ITEM * one[8], 0]
        for item in items:
            numbers += [*item[:5], first_call + TILE * item[5], first_call + TILE * item[6], item[7]]
        for call in calls:
            numbers += call
        return bind(
            driver(self.form, self.isa, self.reads, made),
            numbers,
            *(self._packed, memory, zeros, limits, fields, x, out, residual, epilogue),
        )

    def _blocks_of(self, thread: int, threads: int) -> tuple[int, int]:
        """The output blocks that one thread computes when threads share the output channels."""
        touched = []
        for p in self._passes(self._tiles):
            first, last = part(p.count, thread, threads)
            if last > first:
                touched += [(p.first + first * p.lanes) // BLOCK, blocks(p.first + last * p.lanes)]
        return (min(touched), max(touched)) if touched else (0, 0)


def _fill(fields: Any, in_channels: int, tiles: int) -> None:
    """A matrix product for the micro-kernel: one row of tiles, kernel 1×1."""
    channels = Channels.of(0, in_channels)
    fields[Field.FULL_BLOCKS] = channels.full_blocks
    fields[Field.BLOCK_STRIDE] = fields[Field.OUT_BLOCK_STRIDE] = tiles * PIXEL
    fields[Field.KERNEL_ROWS] = fields[Field.RUNS] = fields[Field.TAPS] = 1
    fields[Field.RUN_ROUNDS] = BLOCK // 4
    fields[Field.PARTS] = len(channels.parts)
    for i, (block, lane, lanes) in enumerate(channels.parts):
        fields[Field.PART_OFFSET + 2 * i] = block * tiles * PIXEL + 4 * lane
        fields[Field.PART_LANES + 2 * i] = lanes


TRANSFORM = types.void(
    *(types.float32[:, :, :, ::1], types.float64[:, ::1], types.float64[:, ::1]),
    *(types.float32[:, ::1], types.int64[:, ::1], types.int64),
)
WIDENED = 4 * BLOCK
"""Filters of 16 bits that are widened at a time, so that all weights of a layer are never there in fp32."""


@jit
def _transform_weights(weight, down, across, u, groups, origin):  # type: ignore[no-untyped-def]
    """G g Gᵀ in float64, for 16 output channels at a time, to U; ``groups``: first lane, lanes of each block's group,
    and the number of input channels in one of its vectors. ``origin``: the first of the output channels.

    Training needs it at every step: numpy took 15 times as long as the convolution of a batch of 8. U's elements are
    often a power of two apart: written in turns they would all map to one set of the cache, so 16 input channels are
    collected first.
    """
    f, c, kh, kw = weight.shape
    rows, columns = down.shape[0], across.shape[0]
    taps = np.zeros((kh, kw, BLOCK))
    half = np.empty((rows, kw, BLOCK))
    total = np.empty(BLOCK)
    collected = np.empty((rows * columns, BLOCK, BLOCK), np.float32)
    for first in range(0, f, BLOCK):
        count = min(BLOCK, f - first)
        start, wide, deep = groups[(origin + first) // BLOCK]
        whole = c // deep * deep
        for channel in range(c):
            for lane in range(count):
                for i in range(kh):
                    for j in range(kw):
                        taps[i, j, lane] = weight[first + lane, channel, i, j]
            half[:] = 0.0
            for row in range(rows):
                for i in range(kh):
                    for j in range(kw):
                        for lane in range(BLOCK):
                            half[row, j, lane] += down[row, i] * taps[i, j, lane]
            for row in range(rows):
                for column in range(columns):
                    total[:] = 0.0
                    for j in range(kw):
                        for lane in range(BLOCK):
                            total[lane] += across[column, j] * half[row, j, lane]
                    for lane in range(BLOCK):
                        collected[row * columns + column, channel % BLOCK, lane] = total[lane]
            if channel % BLOCK == BLOCK - 1 or channel == c - 1:
                begin = channel // BLOCK * BLOCK
                for element in range(rows * columns):
                    for k in range(channel + 1 - begin):
                        step, inner = min(begin + k, whole) // deep + max(0, begin + k - whole), (begin + k) % deep
                        inner = inner if begin + k < whole else 0
                        at = start * c + step * wide * deep + (origin + first - start) * deep + inner
                        for lane in range(count):
                            u[element, at + lane * deep] = collected[element, k, lane]


def pack(weight: Array, bias: Array | None, form: Form, isa: Isa, vectors: int) -> WinogradWeights:
    """(f, c, K_h, K_w), in fp32 or 16 bits → U [element][group][c][lane], in fp32."""
    f, c = weight.shape[:2]
    groups: list[tuple[int, int, int]] = []
    start = 0
    for number, vl in cut(isa, f, c, quad_steps(c), vectors):
        wide = number * vl
        groups += [(start, wide, QUAD if vl < isa.vector_length else 1)] * blocks(wide)
        start += wide
    lanes = -(-f // isa.vector_length) * isa.vector_length  # whole vectors, so that every element is aligned
    u, biases = aligned_zeros((form.elements, c * lanes)), aligned_zeros((blocks(f) * BLOCK,))
    down, across = weight_matrices(form)
    if ready(_transform_weights, TRANSFORM) and not is_blank(weight):
        narrow = weight.dtype != np.float32
        for first in range(0, f, WIDENED if narrow else f):
            part_of = floats(weight[first : first + WIDENED]) if narrow else weight
            _transform_weights(np.ascontiguousarray(part_of), down, across, u, np.array(groups), first)
    if bias is not None:
        biases[:f] = bias
    return WinogradWeights(u, biases, vectors)
