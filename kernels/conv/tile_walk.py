"""The walk over tiles: one array of integers names them all, with their offsets, so that the driver only walks lists."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from fogconv.kernels.codegen.epilogue import Epilogue, call_epilogue
from fogconv.kernels.codegen.jit import jit
from fogconv.kernels.codegen.native.calls import call_tile
from fogconv.kernels.conv.tiling import Cover
from fogconv.kernels.maps.bound import PIXEL, Place

HEADER, ITEM, TILE = 9, 17, 6


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
