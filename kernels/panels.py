"""Weights in panels of 16 inputs × 16 outputs, the order in which a sum over blocked inputs walks them.

panels  (groups, ⌈o/16⌉, ⌈i/16⌉, taps, 16 inputs, 16 outputs) float32, 64-byte aligned; o and i are per group; zeros beyond
        the last input and output
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fogconv.errors import KernelError
from fogconv.kernels import vector
from fogconv.kernels.blocked import BLOCK, aligned_zeros, blocks
from fogconv.kernels.bound import Bound, address_of, bind
from fogconv.kernels.jit import jit

Array = NDArray[np.float32]


def empty_panels(groups: int, outputs: int, inputs: int, taps: int) -> Array:
    """Panels of zeros."""
    return aligned_zeros((groups, blocks(outputs), blocks(inputs), taps, BLOCK, BLOCK))


def bind_pack_panels(weight: Array, panels: Array) -> Bound:
    """Fill panels from a weight (groups, outputs, inputs, K_h, K_w), whose first three axes may have any strides."""
    return bind(_pack, _numbers(weight, panels), weight, panels)


def bind_unpack_panels(panels: Array, weight: Array) -> Bound:
    """Fill a weight (groups, outputs, inputs, K_h, K_w) from panels."""
    return bind(_unpack, _numbers(weight, panels), weight, panels)


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


@jit
def _pack(a: Any) -> None:
    weight, group_step, output_step, input_step, groups, outputs, inputs, taps = (
        a[0],
        a[1],
        a[2],
        a[3],
        a[4],
        a[5],
        a[6],
        a[7],
    )
    for group in range(groups):
        panel = a[8] + group * a[9]
        for first_output in range(0, outputs, 16):
            for first_input in range(0, inputs, 16):
                for o in range(min(16, outputs - first_output)):
                    source = weight + group * group_step + (first_output + o) * output_step + first_input * input_step
                    for i in range(min(16, inputs - first_input)):
                        target = panel + i * 64 + o * 4
                        for tap in range(taps):
                            vector.store_word(target + tap * 1024, vector.load_word(source + i * input_step + tap * 4))
                panel += taps * 1024


@jit
def _unpack(a: Any) -> None:
    weight, group_step, output_step, input_step, groups, outputs, inputs, taps = (
        a[0],
        a[1],
        a[2],
        a[3],
        a[4],
        a[5],
        a[6],
        a[7],
    )
    for group in range(groups):
        panel = a[8] + group * a[9]
        for first_output in range(0, outputs, 16):
            for first_input in range(0, inputs, 16):
                for o in range(min(16, outputs - first_output)):
                    target = weight + group * group_step + (first_output + o) * output_step + first_input * input_step
                    for i in range(min(16, inputs - first_input)):
                        source = panel + i * 64 + o * 4
                        for tap in range(taps):
                            vector.store_word(target + i * input_step + tap * 4, vector.load_word(source + tap * 1024))
                panel += taps * 1024
