"""What moves rows and columns: resizing, slicing, padding; the phases of a finer grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from fogconv.ir.geometry import MapSpec, Region, Span, Taps
from fogconv.ir.layers.operator import FromMap, FromMaps, Needs
from fogconv.ir.layers.tensor import Tensor
from fogconv.ir.shard import Work


@dataclass(frozen=True, slots=True)
class Resample(FromMap):
    """target = weighted sums of the source's rows and columns (see Taps): resizing, slicing with steps, padding.

    ``fill`` stands where a row or a column has no tap.
    """

    name: str
    source: int
    target: int
    rows: Taps
    columns: Taps
    fill: float = 0.0

    @property
    def reaches(self) -> bool:
        return True

    def needs(self, tensors: Sequence[Tensor], work: Work) -> Needs:
        out = work.output
        return ((self.source, Region(out.channels, self.rows.reach(out.rows), self.columns.reach(out.columns))),)

    def computes(self, tensors: Sequence[Tensor], work: Work) -> MapSpec:
        kernel = (self.rows.part(work.output.rows).most, self.columns.part(work.output.columns).most)
        return MapSpec.of("resample", work.output, tensors[self.target].batch, kernel=kernel)


@dataclass(frozen=True, slots=True)
class Interleave(FromMaps):
    """target's pixel (y, x) = pixel (y ÷ s, x ÷ t) of source (y mod s)·t + (x mod t), for ``factors`` (s, t): the s·t
    sources are the phases of a finer grid, all of one shape. Rows and columns beyond the target's size are left out.

    Transposed convolutions end so, each phase being an ordinary convolution, and depth-to-space.
    """

    from_lanes: ClassVar[bool] = True

    name: str
    sources: tuple[int, ...]
    target: int
    factors: tuple[int, int]

    @property
    def reaches(self) -> bool:
        return True

    def needs(self, tensors: Sequence[Tensor], work: Work) -> Needs:
        rows, columns = (
            Span(span.start // factor, (span.stop - 1) // factor + 1)
            for span, factor in zip((work.output.rows, work.output.columns), self.factors, strict=True)
        )
        return tuple((source, Region(work.output.channels, rows, columns)) for source in self.sources)

    def computes(self, tensors: Sequence[Tensor], work: Work) -> MapSpec:
        return MapSpec.of(
            "interleave", work.output, tensors[self.target].batch, sources=len(self.sources), stride=self.factors
        )
