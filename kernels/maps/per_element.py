"""Elementwise operators on blocked maps: a formula applied to every element.

As in `fogconv.kernels.maps.elementwise`, maps are walked once, and neither margins nor the lanes beyond the output's
channels are written. An operand of length 1 along an axis counts everywhere along it: its stride there is 0, and where it
has one channel its first lane is taken sixteen times.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from fogconv.errors import KernelError
from fogconv.ir.arrays import Array
from fogconv.ir.geometry import BLOCK
from fogconv.kernels.codegen import vector
from fogconv.kernels.codegen.formulas import applied, formula, lanes
from fogconv.kernels.codegen.jit import jit
from fogconv.kernels.maps.blocked import Blocked, blocks
from fogconv.kernels.maps.bound import PIXEL, Bound, Place, address_of, bind, flat, place


def bind_elementwise(
    op: str, sources: Sequence[Blocked], out: Blocked, parameters: Sequence[float] = (), constant: Array | None = None
) -> Bound:
    """out = op(sources, constant, parameters). ``out`` may be a source of its own shape.

    The constant is (C, H, W). Raises KernelError for an unknown operator, for another number of operands or parameters
    than it takes, and for operands that are neither of the output's shape nor of length 1 where they differ from it.
    """
    wanted = formula(op)
    operands = [*sources] if constant is None else [*sources, _as_map(constant)]
    if (len(operands), len(parameters)) != (wanted.inputs, wanted.parameters):
        raise KernelError(
            f"{op} takes {wanted.inputs} maps and {wanted.parameters} parameters, not {len(operands)} and {len(parameters)}"
        )
    last = len(operands) - 1
    x = _operand("input 0", operands[0], out, False)
    y = _operand(f"input {last}", operands[last], out, constant is not None)
    target = place("output", out)
    rows, columns = out.height, out.width
    if x.pixel and y.pixel and x.at.row and y.at.row:
        rows, columns = flat(out.height, out.width, x.at, y.at, target)
    numbers_ = lanes(parameters)
    numbers = (*x.at, x.pixel, *y.at, y.pixel, *target, address_of(numbers_), out.batch, out.channels, rows, columns)
    return bind(_walk(op, x.splat, y.splat), numbers, out.data, numbers_, *(operand.data for operand in operands))


class _Operand(NamedTuple):
    """Where an operand is, with the stride 0 along axes of length 1; ``splat``: it has one channel for all."""

    at: Place
    pixel: int
    splat: bool


def _operand(name: str, x: Blocked, out: Blocked, constant: bool) -> _Operand:
    shape, wanted = (x.channels, x.height, x.width), (out.channels, out.height, out.width)
    fits = all(size in (1, needed) for size, needed in zip(shape, wanted, strict=True))
    if not fits or x.batch != (1 if constant else out.batch):
        raise KernelError(
            f"{name} has the shape {(x.batch, *shape)}, the output {(out.batch, *wanted)}; they must be equal, or the "
            "input of length 1 along channels, rows or columns"
        )
    at = place(name, x)
    splat = x.channels < out.channels
    at = Place(at.address, 0 if constant else at.image, 0 if splat else at.block, at.row if x.height == out.height else 0)
    return _Operand(at, PIXEL if x.width == out.width else 0, splat)


def _as_map(values: Array) -> Blocked:
    """A constant (C, H, W) as a map of one image."""
    if values.ndim != 3:
        raise KernelError(f"a constant operand has the shape {values.shape}; it must be (channels, rows, columns)")
    channels, height, width = values.shape
    whole = Blocked.empty(1, channels, height, width)
    padded = np.zeros((blocks(channels) * BLOCK, height, width), np.float32)
    padded[:channels] = values
    whole.interior[0] = padded.reshape(-1, BLOCK, height, width).transpose(0, 2, 3, 1)
    return whole


@cache
def _walk(op: str, splat_x: bool, splat_y: bool) -> Any:
    apply, two = applied(op), formula(op).inputs > 1

    @jit
    def walk(a):  # type: ignore[no-untyped-def]
        x, x_image, x_block, x_row, x_pixel = a[0], a[1], a[2], a[3], a[4]
        y, y_image, y_block, y_row, y_pixel = a[5], a[6], a[7], a[8], a[9]
        out, out_image, out_block, out_row = a[10], a[11], a[12], a[13]
        p, q, r = vector.load(a[14]), vector.load(a[14] + 64), vector.load(a[14] + 128)
        batch, channels, rows, columns = a[15], a[16], a[17], a[18]
        for n in range(batch):
            for block in range((channels + 15) >> 4):
                lanes = channels - block * 16
                for row in range(rows):
                    one = x + n * x_image + block * x_block + row * x_row
                    other = y + n * y_image + block * y_block + row * y_row
                    target = out + n * out_image + block * out_block + row * out_row
                    for column in range(columns):
                        at = one + column * x_pixel
                        first = vector.load_splat(at) if splat_x else vector.load(at)
                        second = first
                        if two:
                            at = other + column * y_pixel
                            second = vector.load_splat(at) if splat_y else vector.load(at)
                        value = apply(first, second, p, q, r)
                        if lanes >= 16:
                            vector.store(target + column * 64, value)
                        else:
                            vector.store_between(target + column * 64, value, 0, lanes)

    return walk
