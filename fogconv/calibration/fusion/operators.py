"""Operators of test cases: small layers whose times are of one order, so that what one of them saves can be seen.

A map has CHANNELS × SIDE × SIDE elements, 1.6 MB: large enough that a call's own cost hardly counts. The convolutions are
those that compute little per byte, 1×1 and depthwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

Operator = Literal[
    "conv",
    "depthwise",
    "relu",
    "clip",
    "hardswish",
    "sigmoid",
    "add",
    "batchnorm",
    "maxpool",
    "avgpool",
    "globalpool",
]
OPERATORS: tuple[Operator, ...] = get_args(Operator)
CONVS: tuple[Operator, ...] = ("conv", "depthwise")

CHANNELS, SIDE = 32, 112
KERNEL = {"conv": 1, "depthwise": 3, "maxpool": 3, "avgpool": 2}
"""Rows and columns under a window,"""
STRIDE = {"maxpool": 2, "avgpool": 2}
"""from one window to the next,"""
PADDING = {"depthwise": 1, "maxpool": 1}
"""and on every side."""
CLIP = (0.0, 6.0)

Chain = tuple[Operator, ...]

PAIRS: tuple[tuple[Operator, Operator], ...] = (
    *((conv, after) for conv in CONVS for after in OPERATORS if after not in CONVS),
    ("add", "relu"),
    ("batchnorm", "relu"),
    ("maxpool", "relu"),
    ("relu", "maxpool"),
    ("relu", "conv"),
    ("maxpool", "conv"),
)
"""Those that nets have."""

CHAINS: tuple[Chain, ...] = (
    ("conv", "relu", "maxpool"),
    ("conv", "batchnorm", "relu", "depthwise", "batchnorm", "relu", "conv", "batchnorm"),
    ("conv", "add", "relu", "conv", "hardswish"),
)
"""Parts of nets, which prices are tried on: VGG's, MobileNet's, ResNet's."""


def side_after(operator: Operator, side: int) -> int:
    """Rows (and columns) of what an operator makes of a map of ``side`` rows."""
    if operator == "globalpool":
        return 1
    window, stride, padding = KERNEL.get(operator, 1), STRIDE.get(operator, 1), PADDING.get(operator, 0)
    return (side + 2 * padding - window) // stride + 1


def sides(chain: Sequence[Operator], side: int = SIDE) -> list[int]:
    """Rows of what each operator of a chain reads, and of the last one's result."""
    found = [side]
    for operator in chain:
        found.append(side_after(operator, found[-1]))
    return found
