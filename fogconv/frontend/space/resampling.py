"""Resampling: the taps of resizes, slices with steps and paddings along one axis (see `fogconv.ir.geometry.Taps`).

Frameworks agree on the sums and differ in where an output lies among the inputs: their rules compute these positions, in
the framework's own precision, and this module makes taps of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from fogconv.frontend.fusion import AnyArray
from fogconv.ir.geometry import Taps

CUBIC = -0.75
"""The usual coefficient of cubic interpolation."""


def picked(size: int, indices: Iterable[int]) -> Taps:
    """Output k is input ``indices[k]``; an index outside of the input stands for the fill value."""
    return Taps(size, tuple(int(index) if 0 <= index < size else -1 for index in indices))


def stepped(size: int, start: int, step: int, count: int) -> Taps:
    """``count`` inputs from ``start`` on, in steps that may be negative."""
    return picked(size, range(start, start + step * count, step))


def identity(size: int) -> Taps:
    return Taps(size, tuple(range(size)))


def padded(size: int, before: int, after: int, mode: str) -> Taps | None:
    """``before`` and ``after`` more outputs, or fewer where they are negative; ``mode`` is constant, reflect (without the
    border), edge or wrap. None for another mode, and for a reflection that is wider than the input."""
    indices = np.arange(-before, size + after)
    match mode:
        case "constant":
            return picked(size, indices)
        case "edge":
            return picked(size, np.clip(indices, 0, size - 1))
        case "wrap":
            return picked(size, indices % size)
        case "reflect" if max(before, after) < size:
            return picked(size, size - 1 - abs(size - 1 - abs(indices)))
    return None


def linear(size: int, positions: AnyArray) -> Taps:
    """Between the two nearest inputs; positions outside of the input are its border's."""
    at = np.clip(positions, 0, size - 1)
    low = np.floor(at).astype(int)
    return _summed(size, [[(i, 1 - share), (i + 1, share)] for i, share in zip(low.tolist(), at - low, strict=True)])


def cubic(size: int, positions: AnyArray, a: float = CUBIC, *, exclude_outside: bool = False) -> Taps:
    """Over the four nearest inputs. Those outside of the input are its border's, or weigh nothing and the others more."""
    outputs = []
    for position in positions:
        low = math.floor(position)
        parts = [(low + i, _keys(abs(position - low - i), a)) for i in (-1, 0, 1, 2)]
        if exclude_outside:
            parts = [(index, weight) for index, weight in parts if 0 <= index < size]
            total = sum(weight for _, weight in parts)
            parts = [(index, weight / total) for index, weight in parts]
        outputs.append(parts)
    return _summed(size, outputs)


def _keys(distance: float, a: float) -> Any:
    """Keys' cubic convolution kernel."""
    if distance <= 1:
        return ((a + 2) * distance - (a + 3)) * distance * distance + 1
    return ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a if distance < 2 else 0.0


def without(taps: Taps, outside: Sequence[bool]) -> Taps:
    """The fill value for the outputs that are ``outside``."""
    starts = tuple(-1 if out else start for start, out in zip(taps.starts, outside, strict=True))
    return Taps(taps.size, starts, taps.weights)


def _summed(size: int, outputs: Iterable[Iterable[tuple[int, Any]]]) -> Taps:
    """Taps of (index, weight): indices beyond the border are the border's, weights of 0 at the ends are left out."""
    starts, weights = [], []
    for parts in outputs:
        sums: dict[int, float] = {}
        for index, weight in parts:
            inside = min(max(index, 0), size - 1)
            sums[inside] = sums.get(inside, 0.0) + float(weight)
        used = [index for index, weight in sums.items() if weight] or [min(sums)]
        starts.append(min(used))
        weights.append(tuple(sums.get(index, 0.0) for index in range(min(used), max(used) + 1)))
    return Taps(size, tuple(starts), () if all(each == (1.0,) for each in weights) else tuple(weights))
