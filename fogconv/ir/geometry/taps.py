"""Taps: one axis of a resampling."""

from __future__ import annotations

from dataclasses import dataclass

from fogconv.errors import GeometryError
from fogconv.ir.geometry.region import Span


@dataclass(frozen=True, slots=True)
class Taps:
    """One axis of a resampling: each output along it is a weighted sum of neighbouring inputs.

    Output k is Σᵢ ``weights[k][i]`` · input[``starts[k]`` + i]. Empty ``weights`` mean that each output is one input,
    unchanged. An output whose start is −1 reads nothing: it is the resampling's fill value. A resize, a slice with
    steps, a flip and every kind of padding are such sums. ``size`` is the number of inputs. Raises GeometryError for a
    tap outside of them.
    """

    size: int
    starts: tuple[int, ...]
    weights: tuple[tuple[float, ...], ...] = ()

    def __post_init__(self) -> None:
        if self.size < 1 or not self.starts:
            raise GeometryError(f"resampling: {self.size} inputs and {len(self.starts)} outputs; both must be at least 1")
        if self.weights and len(self.weights) != len(self.starts):
            raise GeometryError(f"resampling: {len(self.starts)} outputs have {len(self.weights)} lists of weights")
        if min(self.starts) < -1 or max(self._stops(Span(0, len(self.starts)))) > self.size:
            raise GeometryError(f"resampling: an output reads beyond the {self.size} inputs")

    @property
    def most(self) -> int:
        """The most inputs that one output reads."""
        return max(1, max(map(len, self.weights), default=1))

    def reach(self, out: Span) -> Span:
        """The inputs that the outputs ``out`` read. Raises GeometryError where a part of the outputs reads none."""
        first = min((start for start in self.starts[out.slice()] if start >= 0), default=-1)
        if first >= 0:
            return Span(first, max(self._stops(out)))
        if out == Span(0, len(self.starts)):
            return Span(0, self.size)
        raise GeometryError(f"output {out.start}:{out.stop} of a resampling reads only padding")

    def of(self, before: Taps) -> Taps:
        """Both in one, where neither has weights: these of what the taps ``before`` pick, all of which is an input."""
        return Taps(before.size, tuple(before.starts[start] if start >= 0 else -1 for start in self.starts))

    def part(self, out: Span) -> Taps:
        """The taps of the outputs ``out``, in an input that begins and ends where these reach."""
        inside = self.reach(out)
        starts = tuple(start - inside.start if start >= 0 else -1 for start in self.starts[out.slice()])
        return Taps(len(inside), starts, self.weights[out.slice()])

    def _stops(self, out: Span) -> list[int]:
        starts = self.starts[out.slice()]
        if not self.weights:
            return [start + 1 for start in starts]
        return [start + len(w) if start >= 0 else 0 for start, w in zip(starts, self.weights[out.slice()], strict=True)]
