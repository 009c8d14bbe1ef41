"""Interleaving of blocked maps: the phases of a finer grid become one map. It ends transposed convolutions and
depth-to-space."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from fogconv.errors import KernelError
from fogconv.ir.geometry import BLOCK, NARROW
from fogconv.kernels.codegen import vector
from fogconv.kernels.codegen.jit import jit
from fogconv.kernels.maps.blocked import Blocked
from fogconv.kernels.maps.bound import Bound, bind, place


def bind_interleave(
    sources: Sequence[Blocked],
    out: Blocked,
    factors: tuple[int, int],
    first: tuple[int, int],
    lanes: Sequence[int] | None = None,
) -> Bound:
    """The output's pixel (y, x) is at place (y + first[0], x + first[1]) of the fine grid, for ``factors`` (s, t): place
    (p, q) is pixel (p ÷ s, q ÷ t) of source (p mod s)·t + (q mod t). ``lanes`` are those in which the sources' channels
    begin; a source that does not begin in lane 0 has all its channels in one block.

    The output may be narrow. Raises KernelError for another number of sources than s·t, and for maps that don't fit the
    output.
    """
    s, t = factors
    if min(factors) < 1 or len(sources) != s * t or not (0 <= first[0] < s and 0 <= first[1] < t):
        raise KernelError(f"{len(sources)} maps can't be interleaved by the factors {factors} from {first} on")
    lanes = lanes or (0,) * len(sources)
    if any(lane and lane + out.channels > BLOCK for lane in lanes):
        raise KernelError(f"{out.channels} channels from the lanes {lanes} on can't be interleaved: they are in two blocks")
    wanted = (out.batch, out.channels, (out.height + first[0] - 1) // s + 1, (out.width + first[1] - 1) // t + 1)
    for source, lane in zip(sources, lanes, strict=True):
        found = (source.batch, source.channels - lane, source.height, source.width)
        if found != wanted:
            raise KernelError(f"a source of {found} can't be interleaved; it must be {wanted}")
    places = [place("source", source) for source in sources]
    header = (*place("output", out, narrow=True), out.batch, out.channels, out.height, out.width, *factors, *first)
    numbers = [*header, *(value for each in places for value in each), *lanes]
    kernel = _interleave_narrow() if out.lanes == NARROW else _interleave(any(lanes))
    return bind(kernel, numbers, out.data, *(source.data for source in sources))


@cache
def _interleave(shifted: bool) -> Any:
    """The loop where channels begin in any lane, or all in the first."""

    @jit
    def interleave(a):  # type: ignore[no-untyped-def]
        out, out_image, out_block, out_row = a[0], a[1], a[2], a[3]
        batch, channels, rows, columns = a[4], a[5], a[6], a[7]
        s, t, first_row, first_column = a[8], a[9], a[10], a[11]
        for n in range(batch):
            for block in range((channels + 15) >> 4):
                lanes = channels - block * 16
                for row in range(rows):
                    fine = row + first_row
                    target = out + n * out_image + block * out_block + row * out_row
                    for j in range(t):
                        # The first column of this phase; all others follow in steps of t.
                        column = (j - first_column) % t
                        at = 12 + 4 * ((fine % s) * t + j)
                        address = a[at] + n * a[at + 1] + block * a[at + 2] + (fine // s) * a[at + 3]
                        address += (column + first_column) // t * 64
                        if shifted:
                            lane = a[12 + 4 * s * t + (fine % s) * t + j]
                            for p in range(column * 64, columns * 64, t * 64):
                                value = vector.load(address)
                                vector.store_between(target + p, vector.align(value, value, lane), 0, lanes)
                                address += 64
                        elif lanes >= 16:
                            for p in range(column * 64, columns * 64, t * 64):
                                vector.store(target + p, vector.load(address))
                                address += 64
                        else:
                            for p in range(column * 64, columns * 64, t * 64):
                                vector.store_between(target + p, vector.load(address), 0, lanes)
                                address += 64

    return interleave


@cache
def _interleave_narrow() -> Any:
    """The loop for an output of four lanes per pixel: value by value, as a vector would reach into the next pixels."""

    @jit
    def interleave(a):  # type: ignore[no-untyped-def]
        out, out_image, out_row = a[0], a[1], a[3]
        batch, channels, rows, columns = a[4], a[5], a[6], a[7]
        s, t, first_row, first_column = a[8], a[9], a[10], a[11]
        for n in range(batch):
            for row in range(rows):
                fine = row + first_row
                target = out + n * out_image + row * out_row
                for j in range(t):
                    column = (j - first_column) % t
                    phase = (fine % s) * t + j
                    at = 12 + 4 * phase
                    address = a[at] + n * a[at + 1] + (fine // s) * a[at + 3] + (column + first_column) // t * 64
                    address += 4 * a[12 + 4 * s * t + phase]
                    for p in range(column * 16, columns * 16, t * 16):
                        for lane in range(0, 4 * channels, 4):
                            vector.store_float(target + p + lane, vector.load_float(address + lane))
                        address += 64

    return interleave
