"""Direct convolution: every output is summed in registers over the whole kernel and all input channels, then stored once.

Any kernel, stride, dilation, padding and number of groups. The output channels are cut into groups of vectors (``Pass``),
the output map into tiles (``Cover``); a list of tiles with their offsets is made when arrays are bound
(`fogconv.kernels.conv.tile_walk`). Weights are packed as the micro-kernel reads them
(`fogconv.kernels.conv.packed_weights`).

Maps of bf16 may be read in pairs: a word of two input channels then takes the place of one float, and of its weight (see
`fogconv.kernels.codegen.tile.pairs`). Where the last channel has no neighbour its weight's is 0. Maps of fp16 may be read
as they are, by a micro-kernel of their own (`fogconv.kernels.conv.half_tile`). `fogconv.kernels.conv.halves` says which.

Groups whose output channels do not start at a block of 16 are summed into a scratch map and copied lane by lane.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fogconv.errors import KernelError
from fogconv.ir.arrays import Array
from fogconv.ir.geometry import BLOCK, NARROW, ConvSpec
from fogconv.ir.memory.algorithm import HALF
from fogconv.ir.precision.elements import HALVES, WEIGHTS_OF, Element, element_of
from fogconv.kernels.codegen.epilogue import Epilogue
from fogconv.kernels.codegen.formulas import clamp
from fogconv.kernels.codegen.isa import Isa
from fogconv.kernels.codegen.jit import ready
from fogconv.kernels.codegen.microkernel import tile_address
from fogconv.kernels.codegen.tile.fields import FIELDS, LINE, Field, Flag, clamp_bounds
from fogconv.kernels.codegen.tile.tile import make_tile
from fogconv.kernels.conv.half_tile import FLUSHED, LANES, HalfTile, half_tile_address
from fogconv.kernels.conv.halves import paired
from fogconv.kernels.conv.packed_weights import Channels, PackedWeights, pack_weights, product_steps
from fogconv.kernels.conv.tile_walk import part, run_direct, share, tile_table, walk_numbers
from fogconv.kernels.conv.tiling import Pass, fixed_vectors, plan_passes
from fogconv.kernels.maps.blocked import Blocked, Margin, blocks
from fogconv.kernels.maps.bound import SIGNATURE, Bound, Place, address_of, bind, place
from fogconv.kernels.maps.scratch import Scratch

CHUNK_BYTES = 256 * 1024
"""Bytes of a large input that are used for all output channels before the next part: a share of the second-level
cache."""

PAYS = 1.25
"""Chunks that move more bytes than this, over those without chunks, do not pay. With six sets of weights in turns, which no
cache holds, strided convs took 0.94 to 0.99 of the time without them (256×28×28→256 and 288×35×35→384 3×3, 512×28×28→1024
and 256×56×56→512 1×1, Zen 4); where both move as many bytes, with chunks or without, they are as fast (128×56×56→128 3×3).
"""

STREAMED_BYTES = 512 * 1024
"""From this size on, a 1×1 convolution prefetches its input: 5 to 8 % faster at 256×56×56, not slower elsewhere."""

UNROLLED = 24
"""First layers of up to so many products per kernel row are unrolled."""


def clamp_flags(bounds: tuple[float, float] | None) -> Flag:
    """Which of its bounds an activation has; none for one that a tile does not apply."""
    low, high = bounds or (-np.inf, np.inf)
    return (Flag.FLOOR if low > -np.inf else Flag(0)) | (Flag.CEILING if high < np.inf else Flag(0))


def check_clamp(activation: str | None, made: Element) -> None:
    """Raises KernelError for an activation that a tile can't apply before it rounds to ``made``."""
    if made != "fp32" and activation is not None and clamp(activation) is None:
        raise KernelError(f"{activation} is computed in fp32; the output is {made}")


def lanes_for(spec: ConvSpec) -> int:
    """Lanes per pixel of the input with which a direct convolution is fastest: 4 for first layers, else 16."""
    return NARROW if spec.groups == 1 and spec.in_channels <= NARROW else BLOCK


class DirectKernel:
    """Packed weights and everything that does not depend on addresses. See ``fogconv.kernels.conv.conv`` for the
    interface."""

    exact = True

    def __init__(self, spec: ConvSpec, isa: Isa, activation: str | None, packed: PackedWeights) -> None:
        self.spec, self.isa, self.activation, self.packed = spec, isa, activation, packed
        self.passes = _plan(spec, isa, packed.vectors, packed.pairs)
        ready(run_direct, SIGNATURE)
        self._addresses: dict[tuple[int, Element], dict[tuple[int, int, int], int]] = {}
        if packed.element == "fp32":
            self._tile_addresses(self.wanted_lanes, "fp32")

    @staticmethod
    def prepare(
        spec: ConvSpec, isa: Isa, weight: Array, bias: Array | None, activation: str | None, *, reads: Element = "fp32"
    ) -> DirectKernel:
        """``reads``: of what the maps are that it reads, see `reads_of`."""
        fixed = {"fp32": fixed_vectors(isa, weight.shape[1], spec.out_channels // spec.groups), "fp16": 1}.get(reads)
        vectors = _plan(spec, isa, fixed, reads == "bf16")[0].vectors
        if reads != "bf16":
            packed = pack_weights(weight, bias, spec.groups, isa, vectors)
            return DirectKernel(spec, isa, activation, replace(packed, eights=reads == "fp16"))
        packed = pack_weights(paired(weight), bias, spec.groups, isa, vectors)
        return DirectKernel(spec, isa, activation, replace(packed, inputs=weight.shape[1]))

    @property
    def algorithm(self) -> str:
        return HALF if self.spec.element in HALVES else "direct"

    def _tile_addresses(self, lanes: int, made: Element) -> dict[tuple[int, int, int], int]:
        """The micro-kernels, by (output channels, rows, columns), for inputs of ``lanes`` lanes per pixel and outputs of the
        element ``made``."""
        known = self._addresses.get((lanes, made))
        if known is not None:
            return known
        spec = self.spec
        few, channels = (0, 0), self.packed.shape[1]
        if spec.in_channels <= NARROW and spec.groups == 1 and channels * spec.kernel[1] <= UNROLLED:
            few = (channels, spec.kernel[1])
        if self.packed.eights:
            self._addresses[lanes, made] = {
                (p.lanes, rows, columns): half_tile_address(HalfTile(rows, columns, lanes * spec.stride[1], made))
                for p in self.passes
                for rows, columns in p.cover.shapes
            }
            return self._addresses[lanes, made]
        weights, pairs, ahead = self.packed.element, self.packed.pairs, self._reads_ahead
        step = (lanes // 2 if pairs else lanes) * spec.stride[1]
        self._addresses[lanes, made] = {
            (p.lanes, rows, columns): tile_address(
                make_tile(
                    *(self.isa, rows, columns, p.vectors, step, p.vl, few, ahead),
                    weights=weights,
                    coming=0 if ahead else lines_at_once(p, self.packed.weights.itemsize),
                ),
                made,
                pairs,
            )
            for p in self.passes
            for rows, columns in p.cover.shapes
        }
        return self._addresses[lanes, made]

    @property
    def _reads_ahead(self) -> bool:
        """Whether tiles fetch the next one's input. Many blocks of channels are many streams, too many for the CPU's own
        prefetcher."""
        spec = self.spec
        return spec.kernel == (1, 1) and 4 * spec.in_channels * spec.height * spec.width > STREAMED_BYTES

    def at(self, spec: ConvSpec, scratch: Scratch | None = None) -> DirectKernel:
        return DirectKernel(spec, self.isa, self.activation, self.packed)

    @property
    def reads(self) -> Element:
        """The element of the maps that it reads."""
        return "bf16" if self.packed.pairs else "fp16" if self.packed.eights else "fp32"

    def moved(self, place: Callable[[Array], Array]) -> DirectKernel:
        return DirectKernel(self.spec, self.isa, self.activation, replace(self.packed, weights=place(self.packed.weights)))

    def warm(self, threads: int) -> None:
        """Everything was compiled when the kernel was made, for inputs of ``wanted_lanes``."""

    @property
    def wanted_lanes(self) -> int:
        return lanes_for(self.spec)

    @property
    def wanted_margin(self) -> Margin:
        return Margin(*self.spec.padding)

    @property
    def weight_bytes(self) -> int:
        return self.packed.weights.nbytes + self.packed.bias.nbytes

    def unpack(self) -> tuple[Array, Array | None]:
        return self.packed.unpack(), self.packed.unpack_bias()

    def bind(self, x: Blocked, out: Blocked, residual: Blocked | None, thread: int, threads: int) -> Bound:
        """The call that computes one thread's share. Each group's output channels start at a new block of ``out``.

        ``out``, and with it the residual, may be of 16 bits. Raises KernelError where an activation that is no clamp would
        then have to follow."""
        spec, packed = self.spec, self.packed
        made = element_of(out.data)
        at_x = place("the input", x, narrow=spec.groups == 1 and self.reads == "fp32", kind=WEIGHTS_OF[self.reads])
        at_out = place("the output", out, kind=out.data.dtype)
        at_residual = Place(0, 0, 0, 0) if residual is None else place("the residual", residual, kind=out.data.dtype)
        pixel = x.data.itemsize * x.lanes
        origin = at_x.address - spec.padding[0] * at_x.row - spec.padding[2] * pixel
        micro = self._tile_addresses(x.lanes, made)
        per_group_in, per_group_out = packed.shape[1], spec.out_channels // spec.groups
        by_groups = self._split_by_groups(threads)
        fields = np.zeros((spec.groups, FIELDS), np.int64)
        items: list[list[int]] = []
        tiles, end = [], 0
        steps = (spec.stride[0] * at_x.row, spec.stride[1] * pixel)
        for chunk, of in [(0, 1)] if by_groups else share(self._chunks(), thread, threads):
            for p, first, last, start, stop in self._pieces(thread, threads, chunk, of):
                addresses = {shape: micro[p.lanes, *shape] for shape in p.cover.shapes}
                table = tile_table(p.cover, start, stop, addresses, steps, at_out, at_residual, BLOCK * out.data.itemsize)
                tiles.append(table)
                begin, end = end, end + len(tiles[-1])
                lanes, channel = p.lanes, p.first + first * p.lanes
                for group in range(spec.groups):
                    block = group * blocks(per_group_out) + channel // BLOCK
                    items.append(
                        [
                            address_of(fields) + group * fields.strides[0],
                            origin,
                            packed.address(group, channel),
                            packed.bias_address(group, channel),
                            at_out.address + block * at_out.block,
                            at_residual.address + block * at_residual.block,
                            last - first,
                            packed.weights.itemsize * packed.depth * lanes,
                            4 * lanes,
                            lanes // BLOCK * at_out.block,
                            lanes // BLOCK * at_residual.block,
                            begin,
                            end,
                            -(-lanes // BLOCK),
                            0,
                            p.cover.pieces[0] * spec.stride[1] * pixel,
                            0 if self._reads_ahead else LINE * packed.depth * lines_at_once(p, packed.weights.itemsize),
                        ]
                    )
        for group in range(spec.groups):
            channels = Channels.of(group * per_group_in, (group + 1) * per_group_in, packed.block)
            self._fill(fields[group], channels, pixel, at_x, at_out, at_residual, residual is not None)
        epilogue = Epilogue.of(self.activation)
        check_clamp(self.activation, made)
        numbers = walk_numbers(spec.batch, at_x, at_out, at_residual, epilogue, items, tiles)
        return bind(run_direct, numbers, fields, packed, x, out, residual, epilogue)

    def _pieces(self, thread: int, threads: int, chunk: int, of: int) -> Iterator[tuple[Pass, int, int, int, int]]:
        """What one thread computes of a part of the rows, or of all where threads share the output channels: (pass, first
        group, the one after the last, first band, the one after the last). A group that is left over is shared by its bands:
        two threads had two and three groups of mobilenet_v2's 960×7×7→160."""
        by_groups = self._split_by_groups(threads)
        for p in self.passes:
            bands = len(p.cover.bands)
            if not by_groups:
                start, stop = part(bands, chunk, of)
                if start < stop:
                    yield p, 0, p.count, start, stop
                continue
            (first, start), (last, stop) = (divmod(number, bands) for number in part(p.count * bands, thread, threads))
            if first == last:
                if start < stop:
                    yield p, first, first + 1, start, stop
                continue
            if start:
                yield p, first, first + 1, start, bands
                first += 1
            if first < last:
                yield p, first, last, 0, bands
            if stop:
                yield p, last, last + 1, 0, stop

    def _fill(
        self,
        fields: NDArray[np.int64],
        channels: Channels,
        pixel: int,
        x: Place,
        out: Place,
        residual: Place,
        with_residual: bool,
    ) -> None:
        """``pixel``: bytes from one input pixel to the next."""
        spec = self.spec
        kh, kw = spec.kernel
        side_by_side = spec.dilation[1] == 1  # a row of the kernel is then one run of K_w·16 floats, or of K_w·8 pairs
        per_round, lane_bytes = 4, 4
        if self.packed.eights:
            side_by_side &= kw * BLOCK <= FLUSHED
            per_round, lane_bytes = LANES, 2
        tap = spec.dilation[1] * pixel
        values = {
            Field.FULL_BLOCKS: channels.full_blocks,
            Field.FULL_OFFSET: channels.first_block * x.block,
            Field.BLOCK_STRIDE: x.block,
            Field.KERNEL_ROWS: kh,
            Field.KERNEL_ROW_STRIDE: spec.dilation[0] * x.row,
            Field.RUNS: 1 if side_by_side else kw,
            Field.RUN_STRIDE: tap,
            Field.RUN_ROUNDS: (kw if side_by_side else 1) * channels.block // per_round,
            Field.PARTS: len(channels.parts),
            Field.TAPS: kw,
            Field.TAP_STRIDE: tap,
            Field.ROW_STRIDE: spec.stride[0] * x.row,
            Field.OUT_BLOCK_STRIDE: out.block,
            Field.OUT_ROW_STRIDE: out.row,
            Field.RESIDUAL_BLOCK_STRIDE: residual.block,
            Field.RESIDUAL_ROW_STRIDE: residual.row,
        }
        for i, (block, lane, lanes) in enumerate(channels.parts):
            values[Field(Field.PART_OFFSET + 2 * i)] = block * x.block + lane_bytes * lane
            values[Field(Field.PART_LANES + 2 * i)] = lanes
        flags = Flag.RESIDUAL if with_residual else Flag(0)
        bounds = clamp(self.activation)
        if bounds is not None:
            flags |= clamp_flags(bounds)
            values[Field.CLAMP] = clamp_bounds(*bounds)
        values[Field.FLAGS] = int(flags)
        for field, value in values.items():
            fields[field] = value

    def _chunks(self) -> int:
        """The number of parts that the rows are cut into, so that one part of the input stays in the cache for all output
        channels, unless all weights would then be read too often."""
        spec, weights = self.spec, self.packed.weights.nbytes
        (height, width), of_kernel = (
            (spec.height, spec.width),
            [min(pair) for pair in zip(spec.kernel, spec.stride, strict=True)],
        )
        # A kernel of one pixel and stride 2 reads a quarter of its input.
        rows, columns = min(height, spec.out_height * of_kernel[0]), min(width, spec.out_width * of_kernel[1])
        read = 4 * spec.in_channels * rows * columns
        chunks = min(spec.out_height, -(-read // CHUNK_BYTES)) if read > 2 * CHUNK_BYTES else 1
        whole = sum(p.count for p in self.passes) * read + weights
        return chunks if chunks * weights + read <= PAYS * whole else 1

    def _split_by_groups(self, threads: int) -> bool:
        """Whether threads share the output channels (deep layers: each reads half of the weights) or the rows."""
        if threads == 1:
            return False
        groups = max(p.count for p in self.passes)
        weights = self.packed.weights.nbytes
        return groups >= 2 * threads and weights > 4 * self.spec.in_channels * self.spec.height * self.spec.width


def lines_at_once(p: Pass, size: int) -> int:
    """The lines that a tile fetches per product, so that the tiles of a group fetch all weights of the next one, of so many
    bytes each."""
    tiles = len(p.cover.bands) * len(p.cover.pieces)
    return -(-size * p.lanes // (LINE * tiles))


def _plan(spec: ConvSpec, isa: Isa, vectors: int | None = None, pairs: bool = False) -> tuple[Pass, ...]:
    c, taps = spec.in_channels // spec.groups, spec.kernel[0] * spec.kernel[1]
    if pairs:
        c = -(-c // 2)
    steps = product_steps(c, taps, spec.groups)
    return plan_passes(isa, spec.out_height, spec.out_width, spec.out_channels // spec.groups, c * taps, steps, vectors)
