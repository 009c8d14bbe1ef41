"""Elementwise operators on blocked maps: a formula applied to every element.

As in `fogconv.kernels.maps.elementwise`, maps are walked once, and neither margins nor the lanes beyond the output's
channels are written.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from fogconv.errors import KernelError
from fogconv.ir.geometry import BLOCK
from fogconv.kernels.codegen import vector
from fogconv.kernels.codegen.formulas import MOST, applied, formula
from fogconv.kernels.codegen.jit import jit
from fogconv.kernels.maps.blocked import Blocked, aligned_zeros
from fogconv.kernels.maps.bound import Bound, address_of, bind, flat, place, same_size


def bind_elementwise(op: str, sources: Sequence[Blocked], out: Blocked, parameters: Sequence[float] = ()) -> Bound:
    """out = op(sources, parameters). ``out`` may be one of the sources.

    Raises KernelError for an unknown operator, for another number of sources or parameters than it takes, and for sources
    that are not of the output's shape.
    """
    wanted = formula(op)
    if (len(sources), len(parameters)) != (wanted.inputs, wanted.parameters):
        raise KernelError(
            f"{op} takes {wanted.inputs} maps and {wanted.parameters} parameters, not {len(sources)} and {len(parameters)}"
        )
    for number, source in enumerate(sources):
        same_size(f"input {number}", source, out)
    lanes = aligned_zeros((MOST, BLOCK))
    for row, value in zip(lanes, parameters, strict=False):
        row[:] = value
    x, y = place("input 0", sources[0]), place(f"input {len(sources) - 1}", sources[-1])
    target = place("output", out)
    rows, columns = flat(out.height, out.width, x, y, target)
    numbers = (*x, *y, *target, address_of(lanes), out.batch, out.channels, rows, columns)
    return bind(_walk(op), numbers, out.data, lanes, *(source.data for source in sources))


@cache
def _walk(op: str) -> Any:
    apply, two = applied(op), formula(op).inputs > 1

    @jit
    def walk(a):  # type: ignore[no-untyped-def]
        x, x_image, x_block, x_row = a[0], a[1], a[2], a[3]
        y, y_image, y_block, y_row = a[4], a[5], a[6], a[7]
        out, out_image, out_block, out_row = a[8], a[9], a[10], a[11]
        p, q = vector.load(a[12]), vector.load(a[12] + 64)
        batch, channels, rows, columns = a[13], a[14], a[15], a[16]
        for n in range(batch):
            for block in range((channels + 15) >> 4):
                lanes = channels - block * 16
                for row in range(rows):
                    one = x + n * x_image + block * x_block + row * x_row
                    other = y + n * y_image + block * y_block + row * y_row
                    target = out + n * out_image + block * out_block + row * out_row
                    for at in range(0, columns * 64, 64):
                        first = vector.load(one + at)
                        second = vector.load(other + at) if two else first
                        value = apply(first, second, p, q)
                        if lanes >= 16:
                            vector.store(target + at, value)
                        else:
                            vector.store_between(target + at, value, 0, lanes)

    return walk
