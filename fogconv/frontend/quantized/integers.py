"""Integers: a conv's weights as int8 numbers and one scale per output channel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fogconv.ir.arrays import Array


@dataclass(frozen=True, slots=True)
class Integers:
    """real = ``values`` (f, c/g, K_h, K_w) int8, −127 to 127, · ``scales`` (f,) float32."""

    values: NDArray[np.int8]
    scales: Array

    @property
    def reals(self) -> Array:
        """(f, c/g, K_h, K_w) float32."""
        return np.asarray(self.values * self.scales.reshape(-1, 1, 1, 1), np.float32)

    def bias(self, bias: Array | None, unit: float) -> NDArray[np.int32] | None:
        """A bias (f,) as what is added to the sums, where the input's scale is ``unit``; None where it does not fit into 32
        bits. No bias is one of zeros."""
        if bias is None:
            return np.zeros(len(self.scales), np.int32)
        steps = np.rint(bias.astype(np.float64) / (np.float64(unit) * self.scales.astype(np.float64)))
        return steps.astype(np.int32) if np.all(np.abs(steps) < 2**30) else None


class Dequantized:
    """Constants of a model that were dequantised from 8-bit ones, found again by their values: rules reshape and transpose
    them on their way to a layer."""

    def __init__(self) -> None:
        self._known: dict[bytes, tuple[NDArray[np.int8], Array]] = {}

    def __bool__(self) -> bool:
        return bool(self._known)

    def make(self, values: NDArray[Any], scales: NDArray[Any], zeros: NDArray[Any], axis: int) -> Array:
        """(values − zeros) · scales along ``axis``, in fp32. What convs of 8 bits can multiply by is remembered."""
        centred = values.astype(np.int64) - _along(zeros.astype(np.int64), values.ndim, axis)
        reals = np.asarray(centred * _along(scales.astype(np.float64), values.ndim, axis), np.float32)
        if values.ndim >= 2 and values.dtype.itemsize == 1 and np.abs(centred).max(initial=0) <= 127:
            self._remember(reals, centred, scales, axis)
        return reals

    def _remember(self, reals: Array, centred: NDArray[np.int64], scales: NDArray[Any], axis: int) -> None:
        whole, values = scales.size == 1, centred
        for order in ((0, 1), (1, 0)) if values.ndim == 2 else (tuple(range(values.ndim)),):
            if whole or axis == order[0]:
                integers = np.ascontiguousarray(centred.transpose(order)).astype(np.int8)
                each = np.broadcast_to(scales.astype(np.float32).reshape(-1), (integers.shape[0],))
                self._known[_print_of(reals.transpose(order))] = (integers, np.ascontiguousarray(each))

    def of(self, weight: Array) -> Integers | None:
        """The integers of a weight (f, c/g, K_h, K_w), if it was one of these."""
        found = self._known.get(_print_of(weight))
        if found is None or len(found[1]) != weight.shape[0]:
            return None
        return Integers(found[0].reshape(weight.shape), found[1])


def quantized(values: NDArray[Any], scales: NDArray[Any], zeros: NDArray[Any], axis: int) -> NDArray[Any]:
    """Real constants as 8-bit ones, of the zeros' type."""
    steps = np.rint(values / _along(scales, values.ndim, axis)) + _along(zeros.astype(np.float64), values.ndim, axis)
    limits = np.iinfo(zeros.dtype)
    bytes_: NDArray[Any] = np.clip(steps, limits.min, limits.max).astype(zeros.dtype)
    return bytes_


def _print_of(array: NDArray[Any]) -> bytes:
    return np.ascontiguousarray(array, np.float32).tobytes()


def _along(numbers: NDArray[Any], dimensions: int, axis: int) -> NDArray[Any]:
    return numbers.reshape(()) if numbers.size == 1 else numbers.reshape([-1 if n == axis else 1 for n in range(dimensions)])
