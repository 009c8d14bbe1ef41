"""Halves: numbers of 16 bits, fp16 or bf16, and the way from and to fp32.

What has no kernel of its own on maps of 16 bits reads and writes copies in fp32. Widening is exact. Narrowing rounds to the
nearest, halves to even, on every instruction set alike.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from fogconv.errors import KernelError
from fogconv.ir.geometry import BLOCK
from fogconv.ir.precision.elements import Half, element_of
from fogconv.kernels.codegen import vector
from fogconv.kernels.codegen.jit import jit
from fogconv.kernels.maps.blocked import Blocked, Margin, blocks
from fogconv.kernels.maps.bound import Bound, bind, place, same_size

KINDS: dict[Half, type[np.generic]] = {"fp16": np.float16, "bf16": np.uint16}
"""Of arrays, by their elements."""


def bind_widen(source: Blocked, target: Blocked, margin: Margin = Margin()) -> Bound:
    """target (fp32) = source (16 bits), with so much of the margins of both. Raises KernelError for maps of other types or
    sizes, or with less margin."""
    return _bind(_widen, source, target, target, margin)


def bind_narrow(source: Blocked, target: Blocked) -> Bound:
    """target (16 bits) = source (fp32), rounded; the lanes beyond the last channel become 0."""
    return _bind(_narrow, source, target, source, Margin())


def _bind(kernel: Any, source: Blocked, target: Blocked, wide: Blocked, margin: Margin) -> Bound:
    half = source if wide is target else target
    if half.data.dtype not in (np.float16, np.uint16):
        raise KernelError(f"a map of 16 bits is of float16, or of uint16 for bf16, not of {half.data.dtype}")
    same_size("the map in fp32", source, target)
    for name, each in (("the source", source), ("the target", target)):
        if any(has < wanted for has, wanted in zip(each.margin, margin, strict=True)):
            raise KernelError(f"{name} has the margin {tuple(each.margin)}; {tuple(margin)} is needed")
    read = place("the source", source, kind=source.data.dtype)
    made = place("the target", target, kind=target.data.dtype)
    before = [
        margin.top * at.row + margin.left * BLOCK * each.data.itemsize for at, each in ((read, source), (made, target))
    ]
    rows, columns = margin.top + source.height + margin.bottom, margin.left + source.width + margin.right
    last = source.channels - BLOCK * (blocks(source.channels) - 1)
    numbers = (
        *(read.address - before[0], *read[1:], made.address - before[1], *made[1:]),
        *(source.batch, blocks(source.channels), rows, columns, last),
    )
    element = element_of(half.data)
    return bind(kernel("fp16" if element == "fp16" else "bf16"), numbers, source.data, target.data)


@cache
def _widen(half: Half) -> Any:
    load = _load(half)

    @jit
    def widen(a):  # type: ignore[no-untyped-def]
        source, s_image, s_block, s_row, target, t_image, t_block, t_row = a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7]
        batch, blocks, rows, columns = a[8], a[9], a[10], a[11]
        for n in range(batch):
            for block in range(blocks):
                for row in range(rows):
                    start = source + n * s_image + block * s_block + row * s_row
                    out = target + n * t_image + block * t_block + row * t_row
                    for p in range(0, columns * 32, 32):
                        vector.store(out + 2 * p, load(start + p))

    return widen


@cache
def _narrow(half: Half) -> Any:
    store = _store(half)

    @jit
    def narrow(a):  # type: ignore[no-untyped-def]
        source, s_image, s_block, s_row, target, t_image, t_block, t_row = a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7]
        batch, blocks, rows, columns, last = a[8], a[9], a[10], a[11], a[12]
        for n in range(batch):
            for block in range(blocks):
                lanes = last if block == blocks - 1 else 16
                for row in range(rows):
                    start = source + n * s_image + block * s_block + row * s_row
                    out = target + n * t_image + block * t_block + row * t_row
                    if lanes == 16:
                        for p in range(0, columns * 32, 32):
                            store(out + p, vector.load(start + 2 * p))
                    else:
                        for p in range(0, columns * 32, 32):
                            store(out + p, vector.load_lanes(start + 2 * p, lanes))

    return narrow


@cache
def _load(half: Half) -> Any:
    return jit(_load_half if half == "fp16" else _load_bfloat)


@cache
def _store(half: Half) -> Any:
    return jit(_store_half if half == "fp16" else _store_bfloat)


def _load_half(address):  # type: ignore[no-untyped-def]
    return vector.load_half(address, 16)


def _load_bfloat(address):  # type: ignore[no-untyped-def]
    return vector.load_bfloat(address, 16)


def _store_half(address, value):  # type: ignore[no-untyped-def]
    vector.store_half(address, value, 16)


def _store_bfloat(address, value):  # type: ignore[no-untyped-def]
    vector.store_bfloat(address, value, 16)
