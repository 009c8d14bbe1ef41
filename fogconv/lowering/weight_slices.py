"""Cuts: the parts of a graph's weights that programs name, by content hash. Made on use, so that many plans can be
kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from fogconv.ir.arrays import Array, weight_key
from fogconv.ir.geometry import Span
from fogconv.ir.precision.elements import WEIGHT_BYTES, WeightType


class Cuts(Mapping[str, Array]):
    """Content hash → array (float32, or what layers in 8 or 16 bits multiply by): a part of one of ``whole``'s, or derived
    from them."""

    def __init__(self, whole: Mapping[str, Array]) -> None:
        self._whole = whole
        self._names: dict[tuple[object, ...], str] = {}
        self._makers: dict[str, Callable[[], Array]] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._kinds: dict[str, WeightType] = {}

    def cut(self, key: str, slices: tuple[slice, ...]) -> str:
        """The content hash of a part of the weight ``key``."""
        part = (key, *((s.start, s.stop) for s in slices))
        name = self._names.get(part)
        if name is None:
            name = self._names[part] = self.derive(partial(_cut, self._whole[key], slices))
        return name

    def derive(self, make: Callable[[], Array]) -> str:
        """The content hash of the result of ``make``, which must be the same on each call."""
        array = make()
        name = weight_key(array)
        self._makers[name] = make
        self._shapes[name] = array.shape
        self._keep_kind(name, array.dtype)
        return name

    def _keep_kind(self, name: str, dtype: np.dtype[Any]) -> None:
        if dtype.name in WEIGHT_BYTES and dtype != np.float32:
            self._kinds[name] = dtype.name

    def shape(self, name: str) -> tuple[int, ...]:
        return self._shapes[name]

    def kind(self, name: str) -> WeightType | None:
        """Its type; None for fp32."""
        return self._kinds.get(name)

    def __getitem__(self, name: str) -> Array:
        return self._makers[name]()

    def __contains__(self, name: object) -> bool:
        return name in self._shapes

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)


def _cut(whole: Array, slices: tuple[slice, ...]) -> Array:
    return np.ascontiguousarray(whole[slices], dtype=whole.dtype if whole.dtype.name in WEIGHT_BYTES else np.float32)


class Shapes(Cuts):
    """The same parts by names of their own, none of them made: for programs that are only measured."""

    def cut(self, key: str, slices: tuple[slice, ...]) -> str:
        whole = self._whole[key]
        name = repr((key, slices))
        if name not in self._shapes:
            self._makers[name] = partial(_cut, whole, slices)
            self._shapes[name] = tuple(len(range(*s.indices(n))) for s, n in zip(slices, whole.shape, strict=False))
            self._shapes[name] += whole.shape[len(slices) :]
            self._keep_kind(name, whole.dtype)
        return name


def spans_around(whole: Span, slices: Sequence[Span]) -> tuple[Span, ...]:
    """The slices, which are in order, and what is left of the whole before, between and after them."""
    found, at = [], whole.start
    for span in slices:
        if span.start > at:
            found.append(Span(at, span.start))
        found.append(span)
        at = span.stop
    return (*found, Span(at, whole.stop)) if at < whole.stop else tuple(found)
