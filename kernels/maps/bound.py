"""Bound kernels: everything is checked and resolved once, so that a call in an inference costs a microsecond.

Every kernel except the convolutions is a compiled function of one array of int64 (addresses, strides in bytes, sizes).
`bind` makes that array and returns a call without arguments, which allocates nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numba.core import types
from numpy.typing import NDArray

from fogconv.errors import KernelError
from fogconv.ir.geometry import BLOCK, NARROW
from fogconv.kernels.codegen.jit import ready
from fogconv.kernels.maps.blocked import Blocked, blocks

Bound = Callable[[], None]

SIGNATURE = types.void(types.int64[::1])
"""Of every kernel that `bind` binds."""

PIXEL = BLOCK * 4
"""Bytes from one pixel to the next within a row."""


class Place(NamedTuple):
    """The address of a map's first value, and the bytes from one image, block and row to the next."""

    address: int
    image: int
    block: int
    row: int


def place(name: str, x: Blocked, narrow: bool = False, kind: Any = np.float32) -> Place:
    """The Place of a map. Raises KernelError for an array that is not in the blocked layout or of another type than
    ``kind``, and for a narrow one if ``narrow`` isn't set."""
    data = x.data
    size = np.dtype(kind).itemsize
    if data.dtype != kind or data.ndim != 5 or data.shape[4] not in ((BLOCK, NARROW) if narrow else (BLOCK,)):
        lanes = f"{BLOCK} or {NARROW}" if narrow else str(BLOCK)
        raise KernelError(
            f"{name}: a blocked map is a {np.dtype(kind)} array (N, blocks, rows, columns, {lanes}), not {_what(data)}"
        )
    pixel = size * x.lanes
    m = x.margin
    inner = (m.top + x.height + m.bottom, m.left + x.width + m.right)
    if data.shape[1] < blocks(x.channels) or data.shape[2] < inner[0] or data.shape[3] < inner[1]:
        raise KernelError(
            f"{name}: {x.channels} channels of {x.height}×{x.width} in a margin of {tuple(m)} need {blocks(x.channels)} "
            f"blocks of {inner[0]}×{inner[1]}; the array has {data.shape[1:4]}"
        )
    image, block, row, column, lane = data.strides
    if data.size and (lane != size or (column != pixel and data.shape[3] > 1)):
        raise KernelError(f"{name}: the lanes and the columns must be contiguous; the strides are {data.strides} bytes")
    address = data.__array_interface__["data"][0] + m.top * row + m.left * pixel
    if data.size and address % pixel:
        raise KernelError(
            f"{name}: the array must be aligned to {pixel} bytes; it starts {address % pixel} bytes after that"
        )
    return Place(address, image, block, row)


def same_size(name: str, x: Blocked, out: Blocked) -> None:
    """Raises KernelError unless both maps have the same batch, channels, rows and columns."""
    a = (x.batch, x.channels, x.height, x.width)
    b = (out.batch, out.channels, out.height, out.width)
    if a != b:
        raise KernelError(f"{name} has the shape {a}, the output {b}; they must be equal")


def flat(height: int, width: int, *places: Place) -> tuple[int, int]:
    """(rows, columns) to walk: all rows as one where no map has gaps between its rows."""
    if all(p.row == width * PIXEL for p in places):
        return 1, height * width
    return height, width


def bind(kernel: Any, numbers: Sequence[int] | NDArray[np.int64], *kept: object) -> Bound:
    """A call of a compiled kernel with these numbers; ``kept`` are the arrays whose addresses are among them."""
    _compile(kernel)
    call = partial(kernel, np.array(numbers, np.int64))
    call.kept = kept  # type: ignore[attr-defined]
    return call


class Several:
    """One call that does several, one after the other."""

    __slots__ = ("calls",)

    def __init__(self, calls: Sequence[Bound]) -> None:
        self.calls = tuple(calls)

    def __call__(self) -> None:
        for call in self.calls:
            call()


def sequence(calls: Sequence[Bound]) -> Bound:
    """One call that does all of these in order."""
    return calls[0] if len(calls) == 1 else Several(calls)


def address_of(array: NDArray[Any]) -> int:
    return int(array.__array_interface__["data"][0])


def _compile(kernel: Any) -> None:
    if SIGNATURE.args not in kernel.overloads:
        ready(kernel, SIGNATURE)


def _what(array: NDArray[Any]) -> str:
    return f"{array.dtype} {array.shape}"
