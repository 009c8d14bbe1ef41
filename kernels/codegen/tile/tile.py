"""The shape of one micro-kernel."""

from __future__ import annotations

from dataclasses import dataclass

from fogconv.ir.precision.elements import Element
from fogconv.kernels.codegen.isa import Isa


@dataclass(frozen=True, slots=True)
class Tile:
    """The shape of one micro-kernel. ``step`` is the distance in floats between the inputs of neighbouring columns."""

    rows: int
    columns: int
    vectors: int
    step: int
    vl: int
    fused: bool = True
    unroll: int = 4
    by_lane: bool = False
    """Load vl input channels at once and multiply by lane: aarch64 has this instead of broadcasts from memory."""
    few: tuple[int, int] = (0, 0)
    """(lanes, taps) of the only part where the input has just a few channels: a kernel row is then unrolled whole."""
    prefetch: bool = False
    """For kernels of 1×1: fetch the inputs of the tile that starts at ``ahead``, a pixel per input channel."""
    coming: int = 0
    """Lines of the weights at ``ahead`` that are fetched per product: those of the next output channels, where the inputs
    are not fetched. In a network they come from the third-level cache or from memory, as every layer's do."""
    tight: bool = False
    """Whether ``few`` lanes end where the memory may end: no vector is then loaded that reaches further."""
    quads: bool = False
    """Every vector is 4 output channels × 4 input channels; up to 3 vectors, stored with zeros behind them as a block."""
    weights: Element = "fp32"
    """What the weights consist of; those of 16 bits become floats as they are loaded. Quads are of fp32."""

    @property
    def pixels(self) -> int:
        return self.rows * self.columns


def make_tile(
    isa: Isa,
    rows: int,
    columns: int,
    vectors: int,
    step: int,
    vl: int,
    few: tuple[int, int] = (0, 0),
    prefetch: bool = False,
    tight: bool = False,
    weights: Element = "fp32",
    coming: int = 0,
) -> Tile:
    """The tile in the instruction set's preferred form. ``vl``: output channels per vector, 4 for quads."""
    by_lane, quads = isa.name == "neon", vl < isa.vector_length
    return Tile(
        *(rows, columns, vectors, step, isa.vector_length, isa.fused),
        by_lane=by_lane,
        few=few,
        prefetch=prefetch,
        tight=tight,
        quads=quads,
        weights=weights,
        coming=0 if by_lane or quads or prefetch or few[0] else coming,
    )
