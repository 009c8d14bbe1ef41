"""Backward convolution: the gradients of conv2d in its input and in its weight, for workers that have no torch.

    grad_input   (N, f, h, w), (f, c/g, K_h, K_w) → (N, c, H, W)
    grad_weight  (N, c, H, W), (N, f, h, w)       → (f, c/g, K_h, K_w)

grad_input is a convolution of the output's gradient, once for each phase of the stride (see
`fogconv.kernels.gradient.phases`).

grad_weight is a matrix product over pixels, a panel of 16 × 16 channels for each tap. A chunk of pixels that fits the
second-level cache is used for all channels and taps before the next. Where it is faster, Winograd's method is used
(`fogconv.kernels.gradient.winograd`).

Each group is computed on its own blocks; depthwise convolutions, whose groups are single channels, have separate loops
over vectors of groups (`fogconv.kernels.gradient.depthwise`).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np

from fogconv.errors import KernelError
from fogconv.ir.arrays import Array
from fogconv.ir.geometry import BLOCK, ConvSpec
from fogconv.kernels.codegen.isa import host_isa
from fogconv.kernels.codegen.jit import jit
from fogconv.kernels.gradient.depthwise import bind_depthwise_input, bind_depthwise_weight
from fogconv.kernels.gradient.phases import Phase, overhang, phases
from fogconv.kernels.gradient.tiles import InputTile, input_tile, input_tiles, weight_lanes, weight_tile
from fogconv.kernels.gradient.winograd import Margins, bind_weight, margins, pays
from fogconv.kernels.maps.blocked import Blocked, Margin, blocks
from fogconv.kernels.maps.bound import PIXEL, Bound, address_of, bind, place, sequence
from fogconv.kernels.maps.panels import bind_pack_panels, bind_unpack_panels, empty_panels
from fogconv.kernels.maps.transpose import bind_pack, bind_unpack

WEIGHTS_BYTES = 320 * 1024
"""Weights that are used for all pixels before the next ones are read: a share of a second-level cache."""

CHUNK_PIXELS = 2048
"""Pixels of one chunk of grad_weight: 128 KB per block of channels."""


def conv2d_grad_input(grad_out: Array, weight: Array, spec: ConvSpec) -> Array:
    """(N, f, h, w), (f, c/g, K_h, K_w) → (N, c, H, W), all float32. Raises KernelError for other shapes or types.

    For repeated steps keep a `GradInput`.
    """
    return GradInput(spec).run(grad_out, weight)


def conv2d_grad_weight(x: Array, grad_out: Array, spec: ConvSpec) -> Array:
    """(N, c, H, W), (N, f, h, w) → (f, c/g, K_h, K_w), all float32. Raises KernelError for other shapes or types.

    For repeated steps keep a `GradWeight`.
    """
    return GradWeight(spec).run(x, grad_out)


class GradInput:
    """grad_input for one spec, with buffers that are reused by every run. Not for two threads at a time.

    Groups are computed as if they were images, group g of image n being number n·groups + g.
    """

    def __init__(self, spec: ConvSpec) -> None:
        self.spec = spec
        rows, columns = phases(spec, 0), phases(spec, 1)
        self._depthwise = _is_depthwise(spec)
        self._groups = groups = 1 if self._depthwise else spec.groups
        c, f = spec.in_channels // groups, spec.out_channels // groups
        taps = spec.kernel[0] * spec.kernel[1]
        tile = InputTile(1, 1, 1) if self._depthwise else _choose(spec, blocks(c), rows, columns)
        c_blocks = -(-blocks(c) // tile.vectors) * tile.vectors
        top, bottom = overhang(rows, spec.out_height)
        left, right = overhang(columns, spec.out_width)
        margin = Margin(top, bottom + tile.rows - 1, left, right + tile.columns - 1)
        self._go = Blocked.empty(spec.batch * groups, f, spec.out_height, spec.out_width, margin)
        whole = Blocked.empty(spec.batch * groups, c_blocks * BLOCK, spec.height, spec.width)
        self._gi = Blocked(whole.data, c, spec.height, spec.width)
        pairs = [(row, column) for row in rows for column in columns]
        if self._depthwise:
            self._taps = Blocked.empty(1, c, 1, taps)
            steps = [bind_depthwise_input(spec, *pair, self._go, self._taps, self._gi) for pair in pairs]
        else:
            self._w = empty_panels(groups, c_blocks * BLOCK, f, taps)
            steps = [
                _bind_input(spec, group, row, column, tile, self._go, self._w, whole)
                for group in range(groups)
                for row, column in pairs
            ]
        self._compute = sequence(steps)

    def run(self, grad_out: Array, weight: Array, out: Array | None = None) -> Array:
        """The gradient, in ``out`` where given. Raises KernelError for arrays of other shapes or types."""
        spec = self.spec
        grad_out = _expect("grad_out", grad_out, spec.output_shape, spec.groups)
        weight = _expect("weight", weight, spec.weight_shape)
        out = np.empty(spec.input_shape, np.float32) if out is None else _expect_out(out, spec.input_shape, spec.groups)
        if self._depthwise:
            bind_pack(weight.reshape(1, spec.in_channels, 1, -1), self._taps)()
        else:
            per_group = weight.reshape(self._groups, -1, *spec.weight_shape[1:])
            bind_pack_panels(per_group.transpose(0, 2, 1, 3, 4), self._w)()
        bind_pack(_by_group(grad_out, self._groups), self._go)()
        self._compute()
        bind_unpack(self._gi, _by_group(out, self._groups))()
        return out


class GradWeight:
    """grad_weight for one spec, with buffers that are reused by every run. Not for two threads at a time.

    Groups are computed as in `GradInput`.
    """

    def __init__(self, spec: ConvSpec) -> None:
        self.spec = spec
        self._depthwise = _is_depthwise(spec)
        self._groups = groups = 1 if self._depthwise else spec.groups
        c, f = spec.in_channels // groups, spec.out_channels // groups
        self._winograd = pays(spec)
        around = margins(spec) if self._winograd else Margins(Margin(*spec.padding), Margin())
        self._x = Blocked.empty(spec.batch * groups, c, spec.height, spec.width, around.x)
        self._go = Blocked.empty(spec.batch * groups, f, spec.out_height, spec.out_width, around.grad_out)
        taps = spec.kernel[0] * spec.kernel[1]
        if self._depthwise:
            self._taps = Blocked.empty(1, c, 1, taps)
            self._compute = bind_depthwise_weight(spec, self._x, self._go, self._taps)
        elif self._winograd:
            self._taps = Blocked.empty(1, f, 1, c * taps)
            self._compute = bind_weight(spec, self._x, self._go, self._taps)
        else:
            self._w = empty_panels(groups, f, c, taps)
            self._compute = sequence(
                [
                    _bind_weight(spec, group, *chunk, self._x, self._go, self._w)
                    for group in range(groups)
                    for chunk in _chunks(spec)
                ]
            )

    def hold(self, x: Array) -> None:
        """Store x for a later run. Raises KernelError for an array of another shape or type."""
        x = _expect("x", x, self.spec.input_shape, self.spec.groups)
        bind_pack(_by_group(x, self._groups), self._x)()

    def held(self) -> Array:
        """A copy of the x that was stored last."""
        x = np.empty(self.spec.input_shape, np.float32)
        bind_unpack(self._x, _by_group(x, self._groups))()
        return x

    def run(self, x: Array | None, grad_out: Array, out: Array | None = None) -> Array:
        """The gradient, in ``out`` where given. x: None for the one that was stored last. Raises KernelError for arrays
        of other shapes or types."""
        spec = self.spec
        grad_out = _expect("grad_out", grad_out, spec.output_shape, spec.groups)
        out = np.empty(spec.weight_shape, np.float32) if out is None else _expect_out(out, spec.weight_shape, spec.groups)
        if x is not None:
            self.hold(x)
        bind_pack(_by_group(grad_out, self._groups), self._go)()
        self._compute()
        if self._depthwise or self._winograd:
            bind_unpack(self._taps, out.reshape(1, spec.out_channels, 1, -1))()
        else:
            bind_unpack_panels(self._w, out.reshape(self._groups, -1, *spec.weight_shape[1:]))()
        return out


def _is_depthwise(spec: ConvSpec) -> bool:
    """Whether every group is one channel in and one out."""
    return spec.groups == spec.in_channels == spec.out_channels and spec.groups > 1


def _by_group(array: Array, groups: int) -> Array:
    """(N, C, H, W) → (N·groups, C/groups, H, W), as a view."""
    batch, channels, rows, columns = array.shape
    return array.reshape(batch * groups, channels // groups, rows, columns)


def _choose(spec: ConvSpec, c_blocks: int, rows: list[Phase], columns: list[Phase]) -> InputTile:
    """The tile that wastes least on pixels and channels beyond the map, and on loads."""

    def cost(tile: InputTile) -> float:
        computed = sum(phase.size if _by_image(spec, tile, phase) else _up(phase.size, tile.rows) for phase in rows)
        computed *= sum(_up(phase.size, tile.columns) for phase in columns) * _up(c_blocks, tile.vectors)
        # Per product 1/vectors broadcasts come from the first cache, 1/pixels vectors of weights from the second.
        return computed * (1 + 0.15 / tile.vectors + 1.5 / tile.pixels)

    return min(input_tiles(host_isa()), key=cost)


def _by_image(spec: ConvSpec, tile: InputTile, row: Phase) -> bool:
    """Whether to take the tile's rows from neighbouring images, because the map's rows do not fill it."""
    return row.size % tile.rows > 0 and spec.batch % tile.rows == 0


def _up(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple


def _bind_input(
    spec: ConvSpec, group: int, row: Phase, column: Phase, tile: InputTile, go: Blocked, panels: Array, gi: Blocked
) -> Bound:
    """One phase of one group: every stride-th row and column of the input, all its channels."""
    a, b = place("grad_out", go), place("grad_input", gi)
    taps = []
    for i, down in row.taps:
        for j, across in column.taps:
            taps += [down * a.row + across * PIXEL, (i * spec.kernel[1] + j) * BLOCK * PIXEL]
    _, c_blocks, f_blocks, kernel_taps, _, _ = panels.shape
    panel = kernel_taps * BLOCK * PIXEL
    used = len(taps) // 2 * BLOCK * PIXEL * tile.vectors
    chunk = max(1, min(f_blocks, WEIGHTS_BYTES // used))
    # Count and steps of the loop over single rows or images, then of the loop over tiles.
    walks = [
        (spec.batch, a.image * spec.groups, b.image * spec.groups),
        (row.size, a.row, b.row * spec.stride[0]),
    ]
    if _by_image(spec, tile, row):
        walks.reverse()
    numbers = (
        *(a.address + group * a.image, a.block),
        *(b.address + group * b.image + row.first * b.row + column.first * PIXEL, b.block, PIXEL * spec.stride[1]),
        *(address_of(panels[group]), panel, f_blocks * panel),
        *(c_blocks // tile.vectors, f_blocks, chunk, *walks[0], *walks[1], column.size, len(taps) // 2, *taps),
    )
    return bind(_input(tile), numbers, go.data, panels, gi.data)


@cache
def _input(tile: InputTile) -> Any:
    run, tile_rows, tile_columns, vectors = input_tile(tile), tile.rows, tile.columns, tile.vectors

    @jit
    def grad_input(a):  # type: ignore[no-untyped-def]
        go, go_block, gi, gi_block, gi_column, w, w_input, w_output = a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7]
        c_groups, f_blocks, chunk = a[8], a[9], a[10]
        singles, go_single, gi_single, rows, go_row, gi_row = a[11], a[12], a[13], a[14], a[15], a[16]
        columns, count, taps = a[17], a[18], a.ctypes.data + 19 * 8
        for c in range(c_groups):
            for f in range(0, f_blocks, chunk):
                for single in range(singles):
                    for row in range(0, rows, tile_rows):
                        source = go + single * go_single + f * go_block + row * go_row
                        target = gi + single * gi_single + c * vectors * gi_block + row * gi_row
                        for column in range(0, columns, tile_columns):
                            run(
                                source + column * 64,
                                go_row,
                                taps,
                                count,
                                min(chunk, f_blocks - f),
                                go_block,
                                w_input,
                                w + c * vectors * w_output + f * w_input,
                                w_output,
                                target + column * gi_column,
                                gi_row,
                                gi_column,
                                gi_block,
                                rows - row,
                                columns - column,
                                f,
                            )

    return grad_input


def _chunks(spec: ConvSpec) -> Iterator[tuple[int, int, int, int]]:
    """(first image, images, first row, rows): pieces of the output of about ``CHUNK_PIXELS``, in order."""
    pixels = spec.out_height * spec.out_width
    images = max(1, CHUNK_PIXELS // pixels)
    pieces = max(1, pixels // CHUNK_PIXELS)
    for image in range(0, spec.batch, images):
        for piece in range(pieces):
            first, stop = spec.out_height * piece // pieces, spec.out_height * (piece + 1) // pieces
            if stop > first:
                yield image, min(images, spec.batch - image), first, stop - first


def _bind_weight(
    spec: ConvSpec,
    group: int,
    image: int,
    images: int,
    first_row: int,
    rows: int,
    x: Blocked,
    go: Blocked,
    panels: Array,
) -> Bound:
    """One chunk of pixels of one group, all channels and taps; the first one sets the sums, the others add to them."""
    a, b = place("x", x), place("grad_out", go)
    groups = spec.groups
    image, f_blocks, c_blocks = image * groups + group, panels.shape[1], panels.shape[2]
    origin = a.address - spec.padding[0] * a.row - spec.padding[2] * PIXEL
    numbers = (
        *(origin + image * a.image + first_row * spec.stride[0] * a.row, a.image * groups, a.block),
        *(a.row * spec.stride[0], spec.stride[1] * PIXEL, a.row * spec.dilation[0], spec.dilation[1] * PIXEL),
        *(b.address + image * b.image + first_row * b.row, b.image * groups, b.block, b.row, address_of(panels[group])),
        *(images, rows, spec.out_width, f_blocks, c_blocks, *spec.kernel, x.channels),
        int(image >= groups or first_row > 0),
    )
    return bind(_weight(weight_lanes(host_isa(), x.channels)), numbers, x.data, go.data, panels)


@cache
def _weight(lanes: int) -> Any:
    run = weight_tile(lanes)

    @jit
    def grad_weight(a):  # type: ignore[no-untyped-def]
        x, x_image, x_block, x_row, x_column, tap_row, tap_column = a[0], a[1], a[2], a[3], a[4], a[5], a[6]
        go, go_image, go_block, go_row, panel = a[7], a[8], a[9], a[10], a[11]
        images, rows, columns, f_blocks, c_blocks = a[12], a[13], a[14], a[15], a[16]
        kernel_rows, kernel_columns, channels, add = a[17], a[18], a[19], a[20]
        for f in range(f_blocks):
            for c in range(c_blocks):
                for i in range(kernel_rows):
                    for j in range(kernel_columns):
                        source = x + c * x_block + i * tap_row + j * tap_column
                        # The panel's rows beyond the last channel stay zero.
                        for lane in range(0, min(16, channels - c * 16), lanes):
                            run(
                                source + lane * 4,
                                x_image,
                                x_row,
                                x_column,
                                go + f * go_block,
                                go_image,
                                go_row,
                                images,
                                rows,
                                columns,
                                panel + lane * 64,
                                add,
                            )
                        panel += 1024

    return grad_weight


def _expect(name: str, array: Array, shape: tuple[int, ...], groups: int = 0) -> Array:
    """Check an input. With one group there may be gaps between channels and images."""
    if array.shape != shape or array.dtype != np.float32:
        raise KernelError(f"{name} must be float32 {shape}, not {array.dtype} {array.shape}")
    apart = groups == 1 and array.strides[2:] == (4 * array.shape[3], 4)
    return array if apart else np.ascontiguousarray(array)


def _expect_out(out: Array, shape: tuple[int, ...], groups: int) -> Array:
    """Check the output. With one group there may be gaps between images or channels; the kernels check that rows are
    contiguous."""
    packed = groups == 1 or out.flags.c_contiguous
    if out.shape != shape or out.dtype != np.float32 or not packed or not out.flags.writeable:
        raise KernelError(f"the output must be writeable contiguous float32 {shape}, not {out.dtype} {out.shape}")
    return out
