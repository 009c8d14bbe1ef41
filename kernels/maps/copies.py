"""Regions of maps of any element type: copied by NumPy, as views of the same memory that were paired when they were bound.

Maps in fp32 have compiled kernels for this (`fogconv.kernels.maps.wire`, `elementwise`); those of bytes and of int32 sums
come here. A payload's order is the one of `fogconv.kernels.maps.wire`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fogconv.errors import KernelError
from fogconv.ir.geometry import BLOCK
from fogconv.kernels.maps.blocked import Blocked
from fogconv.kernels.maps.bound import Bound

AnyArray = NDArray[Any]
Pair = tuple[AnyArray, AnyArray]


def bind_extract(source: Blocked, first_channel: int, channels: int, out: AnyArray) -> Bound:
    """Write ``channels`` channels of a view, from ``first_channel`` on, into a flat array of the map's own type. Raises
    KernelError for another type or size."""
    return _copies([(flat, part) for part, flat in _paired(source, first_channel, channels, out)])


def bind_insert(payload: AnyArray, target: Blocked, first_channel: int, channels: int, accumulate: bool = False) -> Bound:
    """The other way round: write a payload into a view's channels, or add it to them."""
    return _copies(list(_paired(target, first_channel, channels, payload)), accumulate)


def bind_copy(
    source: Blocked, first: int, target: Blocked, target_first: int, channels: int, accumulate: bool = False
) -> Bound:
    """Copy (or add) channels of one map to those of another of the same rows and columns. Raises KernelError for others."""
    if source.data.dtype != target.data.dtype or (source.height, source.width) != (target.height, target.width):
        raise KernelError(f"a map of {source.data.dtype} can't be copied into one of {target.data.dtype}, or of other sizes")
    return _copies(
        [
            (_lanes(target, target_first + at, count), _lanes(source, first + at, count))
            for at, count in _runs(channels, first, target_first)
        ],
        accumulate,
    )


def bind_permute(source: Blocked, out: Blocked, channels: Sequence[int]) -> Bound:
    """The k-th channel of ``out`` is the ``channels[k]``-th of ``source``."""
    return _copies([(_lanes(out, k, 1), _lanes(source, channel, 1)) for k, channel in enumerate(channels)])


def _paired(view: Blocked, first: int, channels: int, flat: AnyArray) -> Iterator[Pair]:
    """Pairs of a map's lanes and a payload's elements, of one shape each."""
    area = view.height * view.width
    if flat.dtype != view.data.dtype or flat.shape != (view.batch * channels * area,):
        raise KernelError(f"a payload of {flat.dtype} {flat.shape} does not fit {channels} channels of {view.data.dtype}")
    if channels < 0 or first < 0 or first + channels > view.channels:
        raise KernelError(f"channels {first} to {first + channels} do not lie inside the view's {view.channels}")
    images = flat.reshape(view.batch, channels * area)
    whole = channels // BLOCK if first % BLOCK == 0 else 0
    if whole:
        block = first // BLOCK
        sizes = (view.batch, whole, view.height, view.width, BLOCK)
        yield view.interior[:, block : block + whole], images[:, : whole * BLOCK * area].reshape(sizes)
    for start in range(whole * BLOCK, channels, BLOCK):
        lanes = min(BLOCK, channels - start)
        group = images[:, start * area : (start + lanes) * area].reshape(view.batch, view.height, view.width, lanes)
        for at, count in _runs(lanes, first + start):
            yield _lanes(view, first + start + at, count), group[..., at : at + count]


def _runs(channels: int, *firsts: int) -> Iterator[tuple[int, int]]:
    """(start, length) of runs of channels that lie in one block, whichever of the first channels they count from."""
    at = 0
    while at < channels:
        count = min(channels - at, *(BLOCK - (first + at) % BLOCK for first in firsts))
        yield at, count
        at += count


def _lanes(view: Blocked, channel: int, count: int) -> AnyArray:
    """(N, H, W, count): channels of one block."""
    block, lane = divmod(channel, BLOCK)
    return view.interior[:, block, :, :, lane : lane + count]


def _copies(pairs: Sequence[Pair], accumulate: bool = False) -> Bound:
    def copy() -> None:
        for target, source in pairs:
            np.copyto(target, source)

    def add() -> None:
        for target, source in pairs:
            np.add(target, source, out=target)

    return add if accumulate else copy
