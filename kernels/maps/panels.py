"""Weights in panels of 16 inputs × 16 outputs, the order in which a sum over blocked inputs walks them.

panels  (groups, ⌈o/16⌉, ⌈i/16⌉, taps, 16 inputs, 16 outputs) float32, 64-byte aligned; o and i are per group; zeros beyond
        the last input and output
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from fogconv.errors import KernelError
from fogconv.ir.arrays import Array
from fogconv.ir.geometry import BLOCK
from fogconv.kernels.codegen import vector
from fogconv.kernels.codegen.jit import jit
from fogconv.kernels.maps.blocked import aligned_zeros, blocks
from fogconv.kernels.maps.bound import Bound, address_of, bind


def empty_panels(groups: int, outputs: int, inputs: int, taps: int) -> Array:
    """Panels of zeros."""
    return aligned_zeros((groups, blocks(outputs), blocks(inputs), taps, BLOCK, BLOCK))


def bind_pack_panels(weight: Array, panels: Array) -> Bound:
    """Fill panels from a weight (groups, outputs, inputs, K_h, K_w), whose first three axes may have any strides."""
    return bind(_kernel(True, weight), _numbers(weight, panels), weight, panels)


def bind_unpack_panels(panels: Array, weight: Array) -> Bound:
    """Fill a weight (groups, outputs, inputs, K_h, K_w) from panels."""
    return bind(_kernel(False, weight), _numbers(weight, panels), weight, panels)


def _numbers(weight: Array, panels: Array) -> tuple[int, ...]:
    groups, outputs, inputs, rows, columns = weight.shape
    shape = (groups, panels.shape[1], blocks(inputs), rows * columns, BLOCK, BLOCK)
    if (
        panels.shape != shape
        or panels.shape[1] < blocks(outputs)
        or not panels.flags.c_contiguous
        or panels.dtype != np.float32
        or weight.dtype != np.float32
    ):
        raise KernelError(f"a {weight.dtype} weight of {weight.shape} needs float32 panels of {shape}, not {panels.shape}")
    if (columns > 1 and weight.strides[4] != 4) or (rows > 1 and weight.strides[3] != 4 * columns):
        raise KernelError(f"the kernel's elements must be contiguous; the strides are {weight.strides} bytes")
    return (
        *(address_of(weight), *weight.strides[:3], groups, outputs, inputs, rows * columns),
        *(address_of(panels), panels.strides[0]),
    )


@cache
def _panels(pack: bool, constant_taps: int) -> Any:
    """The loop in one direction, for one number of taps, or for any where it is 0. A constant makes it 1.5 times as fast."""

    @jit
    def panels(a):  # type: ignore[no-untyped-def]
        weight, group_step, output_step, input_step = a[0], a[1], a[2], a[3]
        groups, outputs, inputs, any_taps = a[4], a[5], a[6], a[7]
        taps = constant_taps if constant_taps > 0 else any_taps
        for group in range(groups):
            panel = a[8] + group * a[9]
            for first_output in range(0, outputs, 16):
                for first_input in range(0, inputs, 16):
                    for o in range(min(16, outputs - first_output)):
                        plain = weight + group * group_step + (first_output + o) * output_step + first_input * input_step
                        packed = panel + o * 4
                        for _ in range(min(16, inputs - first_input)):
                            for tap in range(taps):
                                if pack:
                                    vector.store_word(packed + tap * 1024, vector.load_word(plain + tap * 4))
                                else:
                                    vector.store_word(plain + tap * 4, vector.load_word(packed + tap * 1024))
                            plain += input_step
                            packed += 64
                    panel += taps * 1024

    return panels


def _kernel(pack: bool, weight: Array) -> Any:
    taps = weight.shape[3] * weight.shape[4]
    return _panels(pack, taps if taps in (1, 9) else 0)
