"""Weights in the order in which the micro-kernel reads them: [group of output channels][full blocks, then
parts][K_h][K_w][lane][vector]."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fogconv.ir.arrays import Array, is_blank
from fogconv.ir.geometry import BLOCK
from fogconv.ir.precision.elements import Element, element_of
from fogconv.kernels.codegen.isa import Isa
from fogconv.kernels.codegen.quads import QUAD, quad_steps
from fogconv.kernels.conv.halves import PAIR
from fogconv.kernels.conv.tiling import cut
from fogconv.kernels.maps.blocked import aligned_zeros
from fogconv.kernels.maps.bound import address_of


@dataclass(frozen=True, slots=True)
class Channels:
    """The places of a group's input channels, or of their pairs or fours: full blocks from ``first_block`` on, and parts
    (block, lane, lanes)."""

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

    @property
    def count(self) -> int:
        return self.full_blocks * self.block + sum(lanes for _, _, lanes in self.parts)

    def runs(self, start: int) -> list[tuple[int, int]]:
        """The channels (from, lanes), counted from ``start``, in the order in which they are summed."""
        full = [((self.first_block + i) * self.block - start, self.block) for i in range(self.full_blocks)]
        return full + [(block * self.block + lane - start, lanes) for block, lane, lanes in self.parts]


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
        per_group, steps = f // self.groups, product_steps(c, kh * kw, self.groups)
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


def product_steps(in_channels: int, taps: int, groups: int) -> int:
    """The number of quads in an output's products, or the number of products where quads can't be used: a group that does
    not start at a multiple of four channels can't be read in fours."""
    return taps * (in_channels if groups > 1 and in_channels % QUAD else quad_steps(in_channels))


def _up(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple
