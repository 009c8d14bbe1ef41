"""Between NCHW and the blocked layout: 16 × 16 transpositions in registers.

    NCHW     16 channels, each a run of pixels      16 vectors of 16 pixels
    blocked  a run of pixels, each 16 channels      16 vectors of 16 lanes

A map's pixels are taken as one run over all rows, so that narrow maps fill the vectors too; the rows' margins are
stepped over pixel by pixel on the blocked side.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba.core import types

from fogconv.errors import KernelError
from fogconv.ir.arrays import Array
from fogconv.ir.geometry import BLOCK, NARROW
from fogconv.kernels.codegen import vector
from fogconv.kernels.codegen.jit import jit
from fogconv.kernels.maps import narrow
from fogconv.kernels.maps.blocked import Blocked, aligned_zeros
from fogconv.kernels.maps.bound import Bound, address_of, bind, place

PLAIN = 4
"""The place of the NCHW array's address among a kernel's numbers."""


def bind_pack(x: Array, out: Blocked) -> Bound:
    """NCHW → blocked; the lanes beyond the last channel become 0. ``x``'s rows must follow one another without a gap.

    Raises KernelError for another shape or type than the output's.
    """
    return bind(narrow.pack(out.channels) if out.lanes == NARROW else _pack, *_arguments(x, out))


def bind_unpack(x: Blocked, out: Array) -> Bound:
    """Blocked → NCHW. Raises KernelError for another shape or type than the input's."""
    if not out.flags.writeable:
        raise KernelError("the output array is read-only")
    return bind(narrow.unpack(x.channels) if x.lanes == NARROW else _unpack, *_arguments(out, x))


def packer(out: Blocked) -> Callable[[Array], None]:
    """A call that packs any array of the right shape into ``out``, bound once. It raises KernelError for another shape or
    type, and must not run twice at the same time."""
    shape = (out.batch, out.channels, out.height, out.width)
    call = bind_pack(np.zeros(shape, np.float32), out)
    (numbers,) = call.args  # type: ignore[attr-defined]

    def run(x: Array) -> None:
        if x.shape != shape or x.dtype != np.float32:
            raise KernelError(f"the NCHW array must be float32 {shape}, not {x.dtype} {x.shape}")
        x = np.ascontiguousarray(x)
        numbers[PLAIN] = address_of(x)
        call()

    return run


def unpacker(x: Blocked) -> Callable[[], Array]:
    """A call that unpacks ``x`` into a new array each time, bound once. It must not run twice at the same time."""
    shape = (x.batch, x.channels, x.height, x.width)
    call = bind_unpack(x, np.empty(shape, np.float32))
    (numbers,) = call.args  # type: ignore[attr-defined]

    def run() -> Array:
        out = np.empty(shape, np.float32)
        numbers[PLAIN] = address_of(out)
        call()
        return out

    return run


def _arguments(plain: Array, blocked: Blocked) -> tuple[Any, ...]:
    shape = (blocked.batch, blocked.channels, blocked.height, blocked.width)
    if plain.shape != shape or plain.dtype != np.float32:
        raise KernelError(f"the NCHW array must be float32 {shape}, not {plain.dtype} {plain.shape}")
    _, _, rows, columns = plain.shape
    if plain.size and ((columns > 1 and plain.strides[3] != 4) or (rows > 1 and plain.strides[2] != 4 * columns)):
        raise KernelError(f"the NCHW array's rows must follow one another; its strides are {plain.strides} bytes")
    at = place("blocked map", blocked, narrow=True)
    scratch = aligned_zeros((2, BLOCK, BLOCK))
    numbers = (*at, address_of(plain), *plain.strides[:2], *shape, address_of(scratch))
    return numbers, plain, blocked.data, scratch


@vector.intrinsic
def _transpose(typingctx: Any, source: Any, source_step: Any, target: Any, target_step: Any) -> Any:
    """16 vectors from ``source``, ``source_step`` bytes apart, to ``target`` as 16 columns. Four times every vector is
    interleaved with the one eight further on: after that each number's two coordinates are swapped.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        source, source_step, target, target_step = args
        word = source.type
        rows = [vector.emit_load(builder, builder.add(source, builder.mul(source_step, word(k)))) for k in range(BLOCK)]
        for _ in range(4):
            mixed = []
            for low, high in zip(rows[: BLOCK // 2], rows[BLOCK // 2 :], strict=True):
                mixed += [vector.emit_interleave(builder, low, high, half) for half in (0, 1)]
            rows = mixed
        for k, row in enumerate(rows):
            vector.emit_store(builder, builder.add(target, builder.mul(target_step, word(k))), row)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 4), codegen


@jit
def _pack(a: Any) -> None:
    blocked, b_image, b_block, b_row, plain, p_image, p_channel = a[0], a[1], a[2], a[3], a[4], a[5], a[6]
    batch, channels, rows, columns, scratch = a[7], a[8], a[9], a[10], a[11]
    gap = b_row - columns * 64
    pixels = rows * columns
    for n in range(batch):
        for block in range((channels + 15) >> 4):
            lanes = min(16, channels - block * 16)
            source = plain + n * p_image + block * 16 * p_channel
            target = blocked + n * b_image + block * b_block
            if pixels == 1 and p_channel == 4:  # nothing to transpose
                vector.store(target, vector.load_lanes(source, lanes))
                continue
            column = 0
            for p in range(0, pixels, 16):
                count = min(16, pixels - p)
                if count == 16 and lanes == 16 and gap == 0:
                    _transpose(source + p * 4, p_channel, target, 64)
                    target += 1024
                    continue
                if count == 16 and lanes == 16:
                    _transpose(source + p * 4, p_channel, scratch, 64)
                else:
                    for lane in range(16):
                        value = vector.zero()
                        if lane < lanes:
                            value = vector.load_lanes(source + lane * p_channel + p * 4, count)
                        vector.store(scratch + 1024 + lane * 64, value)
                    _transpose(scratch + 1024, 64, scratch, 64)
                for k in range(count):
                    vector.store(target, vector.load(scratch + k * 64))
                    target += 64
                    column += 1
                    if column == columns:
                        column = 0
                        target += gap


@jit
def _unpack(a: Any) -> None:
    blocked, b_image, b_block, b_row, plain, p_image, p_channel = a[0], a[1], a[2], a[3], a[4], a[5], a[6]
    batch, channels, rows, columns, scratch = a[7], a[8], a[9], a[10], a[11]
    gap = b_row - columns * 64
    pixels = rows * columns
    for n in range(batch):
        for block in range((channels + 15) >> 4):
            lanes = min(16, channels - block * 16)
            target = plain + n * p_image + block * 16 * p_channel
            source = blocked + n * b_image + block * b_block
            if pixels == 1 and p_channel == 4:
                vector.store_lanes(target, vector.load(source), lanes)
                continue
            column = 0
            for p in range(0, pixels, 16):
                count = min(16, pixels - p)
                if count == 16 and lanes == 16 and gap == 0:
                    _transpose(source, 64, target + p * 4, p_channel)
                    source += 1024
                    continue
                for k in range(count):
                    vector.store(scratch + k * 64, vector.load(source))
                    source += 64
                    column += 1
                    if column == columns:
                        column = 0
                        source += gap
                if count == 16 and lanes == 16:
                    _transpose(scratch, 64, target + p * 4, p_channel)
                else:
                    _transpose(scratch, 64, scratch + 1024, 64)
                    for lane in range(lanes):
                        vector.store_lanes(target + lane * p_channel + p * 4, vector.load(scratch + 1024 + lane * 64), count)
