"""Steps on plain arrays (C order, float32), by name: training uses them.

Unlike buffers, arrays stay from one run to the next, and programs with the same ``Program.shares`` share them: a backward
pass finds the input of its forward pass.
"""

from __future__ import annotations

from typing import Literal

from fogconv.ir.geometry import ConvSpec
from fogconv.ir.steps.step import Step


class ArrayInput(Step, frozen=True, tag=True):
    """Master: the run's ``index``-th input becomes an array, without a copy."""

    index: int
    array: str


class ArrayOutput(Step, frozen=True, tag=True):
    """Master: an array becomes the run's ``index``-th output, and is dropped."""

    array: str
    index: int


class ArraySend(Step, frozen=True, tag=True):
    """Send an array to another rank, and drop it."""

    array: str
    to: int
    tag: int


class ArrayRecv(Step, frozen=True, tag=True):
    """Wait for an array of this shape from another rank; write it into the array of this name, or add it if ``into`` says
    so."""

    array: str
    shape: tuple[int, ...]
    origin: int
    tag: int
    into: Literal["new", "place", "sum"] = "new"


class ConvForward(Step, frozen=True, tag=True):
    """out (N, f, h, w) = conv(x, weight), without a bias. Weights are packed again when the name refers to another
    array."""

    spec: ConvSpec
    x: str
    weight: str
    out: str


class ConvGradInput(Step, frozen=True, tag=True):
    """out (N, c, H, W) = the gradient of the input."""

    spec: ConvSpec
    grad_out: str
    weight: str
    out: str


class ConvGradWeight(Step, frozen=True, tag=True):
    """out (f, c/g, K_h, K_w) = the gradient of the weight."""

    spec: ConvSpec
    x: str
    grad_out: str
    out: str


class ArrayFree(Step, frozen=True, tag=True):
    """Drop arrays."""

    arrays: tuple[str, ...]


ArrayStep = ArrayInput | ArrayOutput | ArraySend | ArrayRecv | ConvForward | ConvGradInput | ConvGradWeight | ArrayFree
