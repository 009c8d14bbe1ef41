"""RemoteConv: one conv of one size, cut over the ranks of a session, forward and backward. No torch here.

Its programs, `fogconv.lowering.training`, say what is sent and computed. Workers keep their weights until new ones arrive,
and the input shard of the last forward pass for its backward pass.
"""

from __future__ import annotations

import ctypes
import itertools
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import numpy as np

from fogconv.cluster.executor.array_steps import Arrays
from fogconv.cluster.executor.executable import Executable
from fogconv.cluster.session.loaded_program import Loaded
from fogconv.cluster.session.session import Session
from fogconv.ir.arrays import Array
from fogconv.ir.geometry import ConvSpec, Region
from fogconv.ir.layout import MASTER
from fogconv.ir.shard import Shard
from fogconv.lowering.training import Pass, index_of, pass_programs, region_of

COMPARED = 16384
"""Weights compared at a time."""

_numbers = itertools.count(1)


@dataclass
class RemoteConv:
    """``shards`` cover the conv, one or none per rank. Raises Session's errors; it can be used again after one."""

    session: Session
    spec: ConvSpec
    shards: tuple[Shard, ...]
    lock: threading.Lock = field(default_factory=threading.Lock)
    _loaded: dict[Pass, Loaded] = field(default_factory=dict)
    _shipped: tuple[int, Array] | None = None
    _cut: list[Array] = field(default_factory=list)
    _kept: int = 0
    _arrays: Arrays = field(default_factory=Arrays)

    def __post_init__(self) -> None:
        self._name = f"layer:{next(_numbers)}"

    def forward(self, x: Array, weight: Array, version: int, *, keep: bool) -> tuple[Array, int]:
        """(N, c, H, W), (f, c/g, K_h, K_w) → (N, f, h, w), without a bias; and a token for ``backward``.

        ``version`` counts the weight's changes: a version older than the one shipped, or other values, cause it to be
        sent again. ``keep`` leaves the input with the workers.
        """
        with self.lock:
            token = next(_numbers) if keep else 0
            variant = Pass(False, self._must_ship(version), keep=keep)
            y = np.empty(self.spec.output_shape, np.float32)
            self._run(variant, x, None, weight, version, self._places("y", y))
            if keep:
                self._kept = token
        return y, token

    def backward(
        self, grad: Array, x: Array, weight: Array, version: int, token: int, *, grad_x: bool, grad_w: bool
    ) -> tuple[Array | None, Array | None]:
        """The requested gradients of x and of the weight. Where the workers still hold the input of the forward pass that
        gave ``token``, it is not sent again."""
        with self.lock:
            ship = grad_x and self._must_ship(version)
            there = token != 0 and token == self._kept
            variant = Pass(True, ship, send_x=grad_w and not there, grad_x=grad_x, grad_w=grad_w)
            places: list[Array] = []
            result_x = result_w = None
            if grad_x:
                whole = all(self._is_whole(shard.input) for shard in self.shards)
                result_x = (np.empty if whole else np.zeros)(self.spec.input_shape, np.float32)
                places += self._places("gx", result_x)
            if grad_w:
                result_w = np.empty(self.spec.weight_shape, np.float32)
                places += self._places("gw", result_w)
            self._run(variant, x, grad, weight, version, places)
            if there and grad_w:
                self._kept = 0
        return result_x, result_w

    def unload(self) -> None:
        """Free its memory on all ranks."""
        with self.lock:
            for loaded in self._loaded.values():
                if not self.session.closed:
                    self.session.unload(loaded)
            self._loaded.clear()
            self._shipped, self._kept = None, 0

    def _must_ship(self, version: int) -> bool:
        return self._shipped is None or self._shipped[0] != version

    def _is_whole(self, region: Region) -> bool:
        """Whether these are all rows and columns of the input."""
        return region.rows.slice() == slice(0, self.spec.height) and region.columns.slice() == slice(0, self.spec.width)

    def _run(
        self, variant: Pass, x: Array, grad: Array | None, weight: Array, version: int, places: Sequence[Array]
    ) -> None:
        """Run a variant and fill the places of the first result's parts, then of the second's.

        The counter misses writes through ``.data``. So the values are compared while the workers compute: if the weight
        has changed, it is sent and everything is computed again.
        """
        loaded = self._loaded.get(variant)
        if loaded is None:
            programs = pass_programs(self.spec, self.shards, variant, ranks=self.session.ranks, name=self._name)
            loaded = self.session.load(programs, {})
            if isinstance(loaded.executable, Executable):  # the master's packed weights serve all variants
                loaded.executable.arrays = self._arrays
            self._loaded[variant] = loaded
        if variant.ship or not self._cut:
            weight = weight.copy()  # a copy, so that later writes do not change it in this process
            self._shipped = None
            self._cut = [np.ascontiguousarray(weight[shard.filters.slice(), shard.depth.slice()]) for shard in self.shards]
        known = None if self._shipped is None or not (variant.grad_x or not variant.backward) else self._shipped[1]
        same: list[bool] = []

        def compare() -> None:
            if known is not None and not same:
                same.append(_equal(known, weight))

        try:
            self.session.run(loaded, lambda: [*self._inputs(variant, x, grad), *places], meanwhile=compare)
            compare()
        except BaseException:
            self._shipped, self._kept = None, 0  # it is unknown which workers received it
            raise
        if False in same:
            again = replace(variant, ship=True, send_x=variant.grad_w or not variant.backward)
            self._run(again, x, grad, weight, version, places)
        elif variant.ship:
            self._shipped = version, weight

    # The inputs, in the same order for arrays and steps: per shard x, grad_y, weight; then the places of the results

    def _inputs(self, variant: Pass, x: Array, grad: Array | None) -> list[Array]:
        cuts: dict[tuple[str, Region], Array] = {}

        def cut(name: str, array: Array, region: Region, shard: Shard) -> Array:
            part = array[index_of(region)]
            if shard.rank == MASTER:
                return part
            if (name, region) not in cuts:  # shards that read the same share one copy
                room = self.session.room(part.shape)
                if room is not None:
                    np.copyto(room, part)
                cuts[name, region] = np.ascontiguousarray(part) if room is None else room
            return cuts[name, region]

        arrays = []
        for shard, weight in zip(self.shards, self._cut, strict=True):
            if variant.brings_x(shard):
                arrays.append(cut("x", x, shard.input, shard))
            if grad is not None:
                arrays.append(cut("grad", grad, shard.output, shard))
            if variant.brings_weight(shard):
                arrays.append(weight)
        return arrays

    def _places(self, result: str, whole: Array) -> list[Array]:
        """The place of each shard's part of a result (y, gx or gw)."""
        return [whole[region_of(result, shard)] for shard in self.shards]


@cache
def _memcmp() -> Any:
    try:
        found = ctypes.CDLL(None).memcmp
    except (OSError, AttributeError, TypeError):
        return None
    found.argtypes, found.restype = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t), ctypes.c_int
    return found


def _equal(a: Array, b: Array) -> bool:
    """Bitwise comparison, so that NaN equals NaN. The C library takes a fifth of NumPy's time, which stores its
    comparisons."""
    memcmp = _memcmp()
    if memcmp is not None and a.flags.c_contiguous and b.flags.c_contiguous and a.nbytes == b.nbytes:
        return bool(memcmp(a.ctypes.data, b.ctypes.data, a.nbytes) == 0)
    step = max(1, COMPARED // max(1, a[0].size))
    pairs = ((a[at : at + step], b[at : at + step]) for at in range(0, len(a), step))
    return all(np.array_equal(one.view(np.int32), two.view(np.int32)) for one, two in pairs)
