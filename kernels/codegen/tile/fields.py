"""The arguments of a micro-kernel, and the integers that it reads from an array."""

from __future__ import annotations

from enum import IntEnum, IntFlag


class Field(IntEnum):
    """The integers that a tile reads; strides are bytes."""

    FULL_BLOCKS = 0
    FULL_OFFSET = 1
    BLOCK_STRIDE = 2
    KERNEL_ROWS = 3
    KERNEL_ROW_STRIDE = 4
    RUNS = 5
    RUN_STRIDE = 6
    RUN_ROUNDS = 7
    PARTS = 8
    PART_OFFSET = 9
    PART_LANES = 10
    SECOND_PART_OFFSET = 11
    SECOND_PART_LANES = 12
    TAPS = 13
    TAP_STRIDE = 14
    ROW_STRIDE = 15
    OUT_BLOCK_STRIDE = 16
    OUT_ROW_STRIDE = 17
    RESIDUAL_BLOCK_STRIDE = 18
    RESIDUAL_ROW_STRIDE = 19
    FLAGS = 20
    CLAMP = 21
    """Two floats: the lower and the upper bound."""
    ZERO = 22
    """What bytes stand for 0 (see `fogconv.kernels.quantized.numbers`)."""


FIELDS = 24


class Flag(IntFlag):
    """What is done with the sums before they are stored."""

    RESIDUAL = 1
    FLOOR = 2
    CEILING = 4


LINE = 64
"""Bytes of a line of the caches."""

ARGUMENTS = 7
"""tile(fields, x, weights, bias, out, residual, ahead): addresses."""


def clamp_bounds(low: float, high: float) -> int:
    """Two floats as the integer that ``Field.CLAMP`` holds."""
    import numpy as np

    return int(np.array([low, high], np.float32).view(np.int64)[0])
