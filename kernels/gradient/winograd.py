"""grad_weight of 3×3 convolutions by Winograd's method: F(3×3, 4×4), 36 products per 4×4 pixels instead of 144.

The output's gradient takes the filter's place, in tiles of 4×4 by which the 6×6 inputs around them are filtered; the 3×3
results of all tiles are summed, so the sums can be made before the transform back:

    gw = Aᵀ [ Σ over tiles of (G g Gᵀ) ⊙ (Bᵀ d B) ] A

    V  [c block][element][tile][16]    W  [f block][element][tile][16]    M  [c block][f block][element][16 c][16 f]

Errors are about 2e-6 of the largest gradient (2e-7 without). Computing all of M before any of it is transformed back was
slower: it moves M through the third-level cache twice.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

from fogconv.ir.geometry import ConvSpec
from fogconv.kernels.codegen.isa import Isa, host_isa
from fogconv.kernels.codegen.jit import jit
from fogconv.kernels.conv.winograd_matrices import Form
from fogconv.kernels.conv.winograd_transforms import filter_intrinsic, input_intrinsic, output_intrinsic
from fogconv.kernels.gradient.tiles import weight_lanes, weight_tile
from fogconv.kernels.maps.blocked import Blocked, Margin, aligned_zeros, blocks
from fogconv.kernels.maps.bound import PIXEL, Bound, address_of, bind, place

FORM = Form((3, 3), (4, 4))
TILE = 4
TILES = 128
"""Tiles at a time: 8 KB of V and of W per element and block, together half a first-level cache."""
TOGETHER = 2
"""Blocks of c that use an element of W while it is in the first cache."""
ELEMENT = 16 * PIXEL + 64
"""Bytes from one element of M to the next: an odd number of lines, so that they do not all map to four sets of the
cache."""
FEWEST_CHANNELS = 16


class Margins(NamedTuple):
    """Around x and around the output's gradient: enough for whole tiles."""

    x: Margin
    grad_out: Margin


def pays(spec: ConvSpec) -> bool:
    """Whether this method can compute a spec, and is likely faster."""
    plain = spec.kernel == (3, 3) and spec.stride == (1, 1) and spec.dilation == (1, 1) and spec.groups == 1
    if not plain or min(spec.in_channels, spec.out_channels) < FEWEST_CHANNELS:
        return False
    # In products of 16 × 16 channels; every sum costs about 60 more to begin and to end, and the transform back 1500.
    down, across = _tiles(spec)
    tiles = spec.batch * down * across
    return 36 * (16 * tiles + 60) + 1500 < 9 * (16 * spec.batch * spec.out_height * spec.out_width + 60)


def margins(spec: ConvSpec) -> Margins:
    """The margins that ``bind_weight`` needs."""
    down, across = _tiles(spec)
    below, beside = TILE * down - spec.out_height, TILE * across - spec.out_width
    top, bottom, left, right = spec.padding
    return Margins(Margin(top, bottom + below, left, right + beside), Margin(0, below, 0, beside))


def bind_weight(spec: ConvSpec, x: Blocked, go: Blocked, taps: Blocked) -> Bound:
    """The gradient of the weight, from maps with ``margins``, into ``taps``: one image of f channels and one row, its pixels
    the taps of all input channels, so that unpacking it is (f, c, 3, 3)."""
    a, b, to = place("x", x), place("grad_out", go), place("taps", taps)
    down, across = _tiles(spec)
    tiles = spec.batch * down * across
    chunks = -(-tiles // TILES)
    most = -(-tiles // chunks)
    c_blocks, f_blocks = blocks(spec.in_channels), blocks(spec.out_channels)
    element = PIXEL * (most | 1)
    block = FORM.elements * element
    sums = c_blocks * f_blocks if chunks > 1 else TOGETHER
    v, w = aligned_zeros((c_blocks * block // 4,)), aligned_zeros((f_blocks * block // 4,))
    m = aligned_zeros((sums * FORM.elements * ELEMENT // 4,))
    zeros = aligned_zeros((16,))  # the bias, and unused limits
    numbers = (
        *(a.address - spec.padding[0] * a.row - spec.padding[2] * PIXEL, a.image, a.block, a.row),
        *(b.address, b.image, b.block, b.row),
        *(address_of(v), address_of(w), address_of(m), element, block, address_of(zeros), to.address, to.block),
        *(tiles, most, down * across, across, spec.in_channels, f_blocks, int(chunks > 1)),
    )
    return bind(_weight(host_isa()), numbers, x.data, go.data, taps.data, v, w, m, zeros)


def _tiles(spec: ConvSpec) -> tuple[int, int]:
    return -(-spec.out_height // TILE), -(-spec.out_width // TILE)


@cache
def _weight(isa: Isa) -> Any:
    transform_input, transform_gradient = input_intrinsic(FORM, isa), filter_intrinsic(FORM, isa)
    transform_output, lanes = output_intrinsic(FORM, isa), weight_lanes(isa, 16)
    add_products = weight_tile(lanes)

    @jit
    def grad_weight(a):  # type: ignore[no-untyped-def]
        x, x_image, x_block, x_row, go, go_image, go_block, go_row = a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7]
        v, w, m, element, block, zeros, taps, taps_block = a[8], a[9], a[10], a[11], a[12], a[13], a[14], a[15]
        tiles, most, per_image, across, channels, f_blocks, several = a[16], a[17], a[18], a[19], a[20], a[21], a[22]
        c_blocks = (channels + 15) >> 4
        for first in range(0, tiles, most):
            count = min(most, tiles - first)
            for c in range(c_blocks):
                for tile in range(first, first + count):
                    image, at = tile // per_image, tile % per_image
                    start = x + image * x_image + c * x_block + 4 * (at // across) * x_row + 256 * (at % across)
                    transform_input(start, x_row, 6, 6, v + c * block + (tile - first) * 64, element)
            for f in range(f_blocks):
                for tile in range(first, first + count):
                    image, at = tile // per_image, tile % per_image
                    start = go + image * go_image + f * go_block + 4 * (at // across) * go_row + 256 * (at % across)
                    transform_gradient(start, go_row, 4, 4, w + f * block + (tile - first) * 64, element)
            for c_first in range(0, c_blocks, TOGETHER):
                c_last = min(c_first + TOGETHER, c_blocks)
                for f in range(f_blocks):
                    for k in range(36):
                        for c in range(c_first, c_last):
                            sums = c * f_blocks + f if several else c - c_first
                            to = m + (36 * sums + k) * ELEMENT
                            source = v + c * block + k * element
                            for lane in range(0, 16, lanes):
                                add_products(
                                    source + lane * 4,
                                    0,
                                    0,
                                    64,
                                    w + f * block + k * element,
                                    0,
                                    0,
                                    1,
                                    1,
                                    count,
                                    to + lane * 64,
                                    first,
                                )
                    if first + count < tiles:
                        continue
                    for c in range(c_first, c_last):
                        sums = c * f_blocks + f if several else c - c_first
                        for lane in range(min(16, channels - c * 16)):
                            start = m + 36 * sums * ELEMENT + lane * 64
                            result = taps + f * taps_block + (c * 16 + lane) * 576
                            transform_output(start, ELEMENT, zeros, result, 192, zeros, 0, 3, 3, 0, zeros)

    return grad_weight
