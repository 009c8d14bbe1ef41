"""Direct convolution: every output is summed in registers over the whole kernel and all input channels, then stored once.

Any kernel, stride, dilation, padding and number of groups. The output channels are cut into groups of vectors (``Pass``),
the output map into tiles (``Cover``); a list of tiles with their offsets is made when arrays are bound, so that the driver
only walks lists. Weights are packed as the micro-kernel reads them: [group of output channels][full blocks, then
parts][K_h][K_w][lane][vector].

Maps of bf16 may be read in pairs: a word of two input channels then takes the place of one float, and of its weight (see
`fogconv.kernels.codegen.microkernel.Pairs`). Where the last channel has no neighbour its weight's is 0. Maps of fp16 may be
read as they are, by a micro-kernel of their own (`fogconv.kernels.conv.half_tile`).

Groups whose output channels do not start at a block of 16 are summed into a scratch map and copied lane by lane.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fogconv.errors import KernelError
from fogconv.ir.arrays import Array, blank, is_blank
from fogconv.ir.geometry import BLOCK, NARROW, ConvSpec
from fogconv.ir.memory.algorithm import HALF
from fogconv.ir.precision.elements import HALVES, WEIGHTS_OF, Element, element_of
from fogconv.kernels.codegen.epilogue import Epilogue, call_epilogue
from fogconv.kernels.codegen.formulas import clamp
from fogconv.kernels.codegen.isa import Isa, host_eights, host_pairs
from fogconv.kernels.codegen.jit import jit, ready
from fogconv.kernels.codegen.microkernel import FIELDS, LINE, Field, Flag, call_tile, clamp_bounds, make_tile, tile_address
from fogconv.kernels.codegen.quads import QUAD, quad_steps
from fogconv.kernels.conv.half_tile import FLUSHED, LANES, PIXELS, HalfTile, half_tile_address
from fogconv.kernels.conv.tiling import Cover, Pass, cut, plan_passes
from fogconv.kernels.maps.blocked import Blocked, Margin, aligned_zeros, blocks
from fogconv.kernels.maps.bound import PIXEL, SIGNATURE, Bound, Place, address_of, bind, place
from fogconv.kernels.maps.scratch import Scratch

CHUNK_BYTES = 256 * 1024
"""Bytes of a large input that are used for all output channels before the next part: a share of the second-level
cache."""

STREAMED_BYTES = 512 * 1024
"""From this size on, a 1×1 convolution prefetches its input: 5 to 8 % faster at 256×56×56, not slower elsewhere."""

FEW, UNROLLED = 4, 24
"""First layers: up to 4 input channels, and up to 24 products per kernel row, are unrolled."""

HEADER, ITEM, TILE = 9, 17, 6


def clamp_flags(bounds: tuple[float, float] | None) -> Flag:
    """Which of its bounds an activation has; none for one that a tile does not apply."""
    low, high = bounds or (-np.inf, np.inf)
    return (Flag.FLOOR if low > -np.inf else Flag(0)) | (Flag.CEILING if high < np.inf else Flag(0))


def lanes_for(spec: ConvSpec) -> int:
    """Lanes per pixel of the input with which a direct convolution is fastest: 4 for first layers, else 16."""
    return NARROW if spec.groups == 1 and spec.in_channels <= NARROW else BLOCK


@jit
def run_direct(a):  # type: ignore[no-untyped-def]
    """Walk the items of the array that `walk_numbers` makes."""
    batch, x_image, out_image, residual_image, epilogue, parameters, out_block, out_row, items = a[:HEADER]
    for image in range(batch):
        for item in range(HEADER, HEADER + ITEM * items, ITEM):
            fields = a[item]
            x = a[item + 1] + image * x_image
            weights, bias = a[item + 2], a[item + 3]
            out = a[item + 4] + image * out_image
            residual = a[item + 5] + image * residual_image
            fetched = a[item + 16]
            for group in range(a[item + 6]):
                coming = weights + a[item + 7] if group + 1 < a[item + 6] else weights
                end = coming + a[item + 7] - fetched
                for tile in range(a[item + 11], a[item + 12], TILE):
                    to = out + a[tile + 2]
                    start = x + a[tile + 1]
                    ahead = coming if fetched else start + a[item + 15]
                    call_tile(a[tile], fields, start, weights, bias, to, residual + a[tile + 3], ahead)
                    coming = min(coming + fetched, end)
                    if epilogue != 0:
                        for block in range(a[item + 13]):
                            call_epilogue(epilogue, to + block * out_block, out_row, a[tile + 4], a[tile + 5], parameters)
                weights += a[item + 7]
                bias += a[item + 8]
                out += a[item + 9]
                residual += a[item + 10]
                x += a[item + 14]


@dataclass(frozen=True, slots=True)
class Channels:
    """The places of a group's input channels, or of their pairs: full blocks from ``first_block`` on, and parts (block,
    lane, lanes)."""

    first_block: int
    full_blocks: int
    parts: tuple[tuple[int, int, int], ...]
    block: int = BLOCK
    """How many make a block."""

    @staticmethod
    def of(start: int, stop: int, block: int = BLOCK) -> Channels:
        """The channels start … stop−1 of a blocked map."""
        parts = []
        if start % block or stop - start < block:
            lanes = min(block - start % block, stop - start)
            parts.append((start // block, start % block, lanes))
            start += lanes
        full = (stop - start) // block
        first = start // block
        if stop > start + full * block:
            parts.append((first + full, 0, stop - start - full * block))
        return Channels(first, full, tuple(parts), block)

    def runs(self, start: int) -> list[tuple[int, int]]:
        """The channels (from, lanes), counted from ``start``, in the order in which they are summed."""
        full = [((self.first_block + i) * self.block - start, self.block) for i in range(self.full_blocks)]
        return full + [(block * self.block + lane - start, lanes) for block, lane, lanes in self.parts]


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
        vectors = _plan(spec, isa, 1 if reads == "fp16" else None, reads == "bf16")[0].vectors
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
        if spec.in_channels <= FEW and spec.groups == 1 and channels * spec.kernel[1] <= UNROLLED:
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
            for p in self.passes:
                start, stop = part(len(p.cover.bands), chunk, of)
                first, last = part(p.count, thread, threads) if by_groups else (0, p.count)
                if start == stop or first == last:
                    continue
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
        if made != "fp32" and self.activation is not None and clamp(self.activation) is None:
            raise KernelError(f"{self.activation} is computed in fp32; the output is {made}")
        numbers = walk_numbers(spec.batch, at_x, at_out, at_residual, epilogue, items, tiles)
        return bind(run_direct, numbers, fields, packed, x, out, residual, epilogue)

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
        channels."""
        spec = self.spec
        input_bytes = 4 * spec.in_channels * spec.height * spec.width
        return min(spec.out_height, -(-input_bytes // CHUNK_BYTES)) if input_bytes > 2 * CHUNK_BYTES else 1

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


def walk_numbers(
    batch: int,
    x: Place,
    out: Place,
    residual: Place,
    epilogue: Epilogue,
    items: list[list[int]],
    tiles: Sequence[NDArray[np.int64]],
) -> NDArray[np.int64]:
    """The array that `run_direct` walks. Items name their tiles by first and last index, over all of ``tiles``; their last
    number, the bytes of the next group's weights that a tile fetches, may be left out."""
    first_tile = HEADER + ITEM * len(items)
    numbers = [batch, x.image, out.image, residual.image, *epilogue.numbers, out.block, out.row, len(items)]
    for item in items:
        numbers += [
            *item[:11],
            first_tile + TILE * item[11],
            first_tile + TILE * item[12],
            *item[13:],
            *[0] * (ITEM - len(item)),
        ]
    return np.concatenate((np.array(numbers, np.int64), *(table.ravel() for table in tiles)))


def tile_table(
    cover: Cover,
    start: int,
    stop: int,
    addresses: Mapping[tuple[int, int], int],
    steps: tuple[int, int],
    out: Place,
    residual: Place,
    pixel: int = PIXEL,
) -> NDArray[np.int64]:
    """The tiles of some bands: address and offsets of input, output and residual; rows, columns. ``pixel``: bytes from one
    pixel of the output to the next.

    ``addresses`` of the micro-kernels by (rows, columns), ``steps`` in bytes of the input per row and column of the output.
    A large map has ten thousand tiles: numbers in arrays, not one after the other.
    """
    bands, pieces = np.array(cover.bands[start:stop], np.int64)[:, None], np.array(cover.pieces, np.int64)[None]
    top = sum(cover.bands[:start]) + np.cumsum(bands, 0) - bands
    left = np.cumsum(pieces, 1) - pieces
    table = np.empty((bands.size, pieces.size, TILE), np.int64)
    for (rows, columns), address in addresses.items():
        table[(bands == rows) & (pieces == columns), 0] = address
    table[..., 1] = top * steps[0] + left * steps[1]
    table[..., 2] = top * out.row + left * pixel
    table[..., 3] = top * residual.row + left * pixel
    table[..., 4] = bands
    table[..., 5] = pieces
    return table.reshape(-1, TILE)


def part(length: int, index: int, of: int) -> tuple[int, int]:
    """The index-th of ``of`` nearly equal parts of range(length)."""
    return length * index // of, length * (index + 1) // of


def share(chunks: int, thread: int, threads: int) -> list[tuple[int, int]]:
    """The chunks (index, of) of one thread; at least one chunk per thread."""
    per_thread = -(-chunks // threads)
    return [(thread * per_thread + i, per_thread * threads) for i in range(per_thread)]


@dataclass(frozen=True)
class PackedWeights:
    """All weights in the micro-kernel's order, and the bias (zeros where there is none)."""

    weights: Array
    bias: Array
    shape: tuple[int, int, int, int]
    groups: int
    isa: Isa
    vectors: int
    """Vectors per group of output channels; the last groups may have fewer, or quads (see `cut`)."""
    inputs: int = 0
    """Input channels of a group, where ``shape`` counts pairs of them."""
    eights: bool = False
    """Whether products are summed in fp16, eight at a time."""

    @property
    def pairs(self) -> bool:
        """Whether a weight is two of bf16, for two input channels."""
        return self.weights.dtype == PAIR

    @property
    def block(self) -> int:
        """How many channels, or pairs, make a block."""
        return BLOCK // 2 if self.pairs else BLOCK

    @property
    def element(self) -> Element:
        """Of the weights as the micro-kernel loads them: pairs as floats."""
        return "fp32" if self.pairs else element_of(self.weights)

    @property
    def depth(self) -> int:
        """Products per output: c/g·K_h·K_w."""
        return int(np.prod(self.shape[1:]))

    @property
    def per_group(self) -> int:
        """Lanes of output channels in each group of the convolution: whole vectors, so that all of them are aligned."""
        return _up(self.shape[0] // self.groups, self.isa.vector_length)

    def address(self, group: int, channel: int) -> int:
        """Where the weights of a group's output channels start, from one of its vectors on."""
        return address_of(self.weights) + self.weights.itemsize * self.depth * (group * self.per_group + channel)

    def bias_address(self, group: int, channel: int) -> int:
        return address_of(self.bias) + 4 * (group * self.per_group + channel)

    def pieces(self) -> Iterator[tuple[slice, slice, Array]]:
        """The weights piece by piece: output channels, input channels of their group, and a view of the packed array whose
        elements are, in order, [K_h][K_w][input channel][output lane]."""
        f, c, kh, kw = self.shape
        per_group, steps = f // self.groups, _steps(c, kh * kw, self.groups)
        for group in range(self.groups):
            position = group * self.per_group * self.depth
            runs = Channels.of(group * c, (group + 1) * c, self.block).runs(group * c)
            if kh * kw == 1 and self.groups == 1:
                runs = [(0, c)]  # with a single tap they are contiguous
            start, end = group * per_group, (group + 1) * per_group
            for vectors, vl in cut(self.isa, per_group, self.depth, steps, self.vectors):
                outputs = slice(start, min(start + vectors * vl, end))
                for channel, lanes in runs:
                    inputs = slice(channel, channel + lanes)
                    if vl == self.isa.vector_length:
                        size = lanes * kh * kw * vectors * vl
                        yield outputs, inputs, self.weights[position : position + size].reshape(kh, kw, lanes, vectors * vl)
                    else:
                        size = quad_steps(lanes) * kh * kw * vectors * QUAD**2
                        quads = self.weights[position : position + size].reshape(kh, kw, -1, vectors, QUAD, QUAD)
                        whole = lanes // QUAD
                        stop = channel + whole * QUAD
                        if whole:
                            yield outputs, slice(channel, stop), quads[:, :, :whole].transpose(0, 1, 2, 5, 3, 4)
                        if lanes % QUAD:
                            yield outputs, slice(stop, channel + lanes), quads[:, :, whole:, ..., 0]
                    position += size
                start += vectors * vl

    def unpack_bias(self) -> Array:
        """The bias (f,)."""
        f = self.shape[0] // self.groups
        return self.bias.reshape(self.groups, -1)[:, :f].reshape(-1)

    def unpack(self) -> Array:
        """The original weights (f, c/g, K_h, K_w), exactly."""
        out = np.empty(self.shape, self.weights.dtype)
        for outputs, inputs, piece in self.pieces():
            lanes = piece.reshape(*self.shape[2:], inputs.stop - inputs.start, -1)
            out[outputs, inputs] = lanes[..., : outputs.stop - outputs.start].transpose(3, 2, 0, 1)
        if self.pairs:
            f, _, kh, kw = self.shape
            halves = out.view(np.uint16).reshape(f, -1, kh, kw, 2).transpose(0, 1, 4, 2, 3)
            return np.ascontiguousarray(halves.reshape(f, -1, kh, kw)[:, : self.inputs])
        return out


def pack_weights(weight: NDArray[Any], bias: Array | None, groups: int, isa: Isa, vectors: int) -> PackedWeights:
    """Weights (f, c/g, K_h, K_w), in fp32 or 16 bits, and bias (f,) → the micro-kernel's order; lanes beyond f/g are
    zeros."""
    f, c, kh, kw = weight.shape
    lanes = groups * _up(f // groups, isa.vector_length)
    packed = PackedWeights(
        aligned_zeros((lanes * c * kh * kw,), kind=weight.dtype),
        aligned_zeros((lanes,)),
        (f, c, kh, kw),
        groups,
        isa,
        vectors,
    )
    if is_blank(weight):
        return packed
    for outputs, inputs, piece in packed.pieces():
        wide = piece[0, 0].size // (inputs.stop - inputs.start)
        ordered = weight[outputs, inputs].transpose(2, 3, 1, 0)
        if wide > ordered.shape[3]:
            ordered = np.concatenate((ordered, np.zeros((*ordered.shape[:3], wide - ordered.shape[3]), weight.dtype)), 3)
        piece[...] = ordered.reshape(piece.shape)
    if bias is not None:
        packed.bias.reshape(groups, -1)[:, : f // groups] = bias.reshape(groups, -1)
    return packed


PAIR = np.dtype(np.uint32)
"""Two numbers of bf16, the one of the lower channel in the lower bits."""


def reads_of(spec: ConvSpec, isa: Isa) -> Element:
    """The element of the maps that a conv in 16 bits reads: its own where this CPU multiplies such, and no pair lies in two
    groups; else fp32."""
    if spec.element == "bf16" and host_pairs(isa) and (spec.groups == 1 or spec.in_channels // spec.groups % 2 == 0):
        return "bf16"
    return "fp16" if spec.element == "fp16" and host_eights(isa) else "fp32"


def halves_isa(isa: Isa, reads: Element) -> Isa:
    """The instruction set as the tiling must see it: what is of 16 bits is not summed in quads."""
    isa = replace(isa, quads=False)
    if reads == "fp16":  # a tile has all channels of a block
        return replace(isa, vector_length=BLOCK, pixels=(PIXELS,))
    if isa.name == "neon":  # a vector of weights takes a second register while it is widened
        return replace(isa, pixels=(12, 9, 6, 5))
    return replace(isa, pixels=(26, 14, 8, 6)) if reads == "bf16" else isa


def paired(weight: NDArray[Any]) -> NDArray[Any]:
    """(f, c, K_h, K_w) of bf16 → (f, ⌈c/2⌉, K_h, K_w) of pairs."""
    f, c, kh, kw = weight.shape
    if is_blank(weight):
        return blank((f, -(-c // 2), kh, kw), PAIR.name)
    whole = np.concatenate((weight, np.zeros((f, c % 2, kh, kw), weight.dtype)), 1) if c % 2 else weight
    halves = whole.reshape(f, -1, 2, kh, kw).transpose(0, 1, 3, 4, 2)
    return np.ascontiguousarray(halves).view(PAIR)[..., 0]


def _plan(spec: ConvSpec, isa: Isa, vectors: int | None = None, pairs: bool = False) -> tuple[Pass, ...]:
    c, taps = spec.in_channels // spec.groups, spec.kernel[0] * spec.kernel[1]
    if pairs:
        c = -(-c // 2)
    steps = _steps(c, taps, spec.groups)
    return plan_passes(isa, spec.out_height, spec.out_width, spec.out_channels // spec.groups, c * taps, steps, vectors)


def _steps(in_channels: int, taps: int, groups: int) -> int:
    """The number of quads in an output's products, or the number of products where quads can't be used: a group that does
    not start at a multiple of four channels can't be read in fours."""
    return taps * (in_channels if groups > 1 and in_channels % QUAD else quad_steps(in_channels))


def _up(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple


__all__: Sequence[str] = ["Channels", "Cover", "DirectKernel", "PackedWeights", "pack_weights"]
