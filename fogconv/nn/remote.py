"""RemoteConv: one conv of one size, cut over the ranks of a session, forward and backward. No torch here.

    forward    x shard →            conv        → y shard      → sum over input groups, concatenate over output groups
    backward   grad_y shard →       grad_input  → grad_x shard → sum over output groups, concatenate over input groups
                                    grad_weight → grad_w shard → concatenate

Workers keep their weights until new ones arrive, and the input shard of the last forward pass for its backward pass.
"""

from __future__ import annotations

import ctypes
import itertools
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, Literal

import numpy as np

from fogconv.cluster.executor.array_steps import Arrays
from fogconv.cluster.executor.executable import Executable
from fogconv.cluster.session.loaded_program import Loaded
from fogconv.cluster.session.session import Session
from fogconv.ir.arrays import Array
from fogconv.ir.geometry import ConvSpec, Region
from fogconv.ir.layout import MASTER
from fogconv.ir.program import (
    AnyStep,
    ArrayFree,
    ArrayInput,
    ArrayOutput,
    ArrayRecv,
    ArraySend,
    ConvForward,
    ConvGradInput,
    ConvGradWeight,
    Program,
)
from fogconv.ir.shard import Shard

COMPARED = 16384
"""Weights compared at a time."""

_numbers = itertools.count(1)


@dataclass(frozen=True)
class _Variant:
    """The content of one run: whether to ``ship`` weights, send the input ``x`` or use the kept one, keep it, and which
    gradients."""

    backward: bool
    ship: bool
    send_x: bool = True
    keep: bool = False
    grad_x: bool = False
    grad_w: bool = False


@dataclass
class RemoteConv:
    """``shards`` cover the conv, one or none per rank. Raises Session's errors; it can be used again after one."""

    session: Session
    spec: ConvSpec
    shards: tuple[Shard, ...]
    lock: threading.Lock = field(default_factory=threading.Lock)
    _loaded: dict[_Variant, Loaded] = field(default_factory=dict)
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
            variant = _Variant(False, self._must_ship(version), keep=keep)
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
            variant = _Variant(True, ship, send_x=grad_w and not there, grad_x=grad_x, grad_w=grad_w)
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
        self, variant: _Variant, x: Array, grad: Array | None, weight: Array, version: int, places: Sequence[Array]
    ) -> None:
        """Run a variant and fill the places of the first result's parts, then of the second's.

        The counter misses writes through ``.data``. So the values are compared while the workers compute: if the weight
        has changed, it is sent and everything is computed again.
        """
        loaded = self._loaded.get(variant)
        if loaded is None:
            loaded = self.session.load(self._programs(variant), {})
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

    def _inputs(self, variant: _Variant, x: Array, grad: Array | None) -> list[Array]:
        cuts: dict[tuple[str, Region], Array] = {}

        def cut(name: str, array: Array, region: Region, shard: Shard) -> Array:
            part = array[_index(region)]
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
            if self._brings_x(variant, shard):
                arrays.append(cut("x", x, shard.input, shard))
            if grad is not None:
                arrays.append(cut("grad", grad, shard.output, shard))
            if self._brings_weight(variant, shard):
                arrays.append(weight)
        return arrays

    def _brings_x(self, variant: _Variant, shard: Shard) -> bool:
        """Whether x is sent. The master's own input is in its memory anyway."""
        return variant.send_x or (shard.rank == MASTER and variant.grad_w)

    def _brings_weight(self, variant: _Variant, shard: Shard) -> bool:
        return variant.ship or (shard.rank == MASTER and (variant.grad_x or not variant.backward))

    def _places(self, result: str, whole: Array) -> list[Array]:
        """The place of each shard's part of a result (y, gx or gw)."""
        return [whole[_region_of(result, shard)] for shard in self.shards]

    # Programs

    def _programs(self, variant: _Variant) -> list[Program]:
        tags = itertools.count(1)
        steps: dict[int, list[AnyStep]] = {MASTER: []}
        master = steps[MASTER]
        own: list[AnyStep] = []
        returns: tuple[list[AnyStep], list[AnyStep]] = ([], [])  # the first result of all ranks, then the second
        places: tuple[list[str], list[str]] = ([], [])
        begun: list[tuple[Any, ...]] = [
            (result, *_region_of(result, shard))
            for shard in self.shards
            if shard.rank == MASTER
            for _, result in self._work(variant, shard, "")
        ]
        index = 0
        for number, shard in enumerate(self.shards):
            remote = shard.rank != MASTER
            mine = steps.setdefault(shard.rank, [])
            for name, shape in self._needs(variant, shard):
                master.append(ArrayInput(0, index, f"{name}{number}"))
                index += 1
                if remote:
                    tag = next(tags)
                    master.append(ArraySend(0, f"{name}{number}", shard.rank, tag))
                    mine.append(ArrayRecv(0, name if name != "x" else self._x(variant), shape, MASTER, tag))
            for kind, (step, result) in enumerate(self._work(variant, shard, "" if remote else str(number))):
                (mine if remote else own).append(step)
                places[kind].append(f"{result}{number}")
                if remote:
                    tag = next(tags)
                    mine.append(ArraySend(0, result, MASTER, tag))
                    # Parts of one place are summed, the others are adjacent; the master's are written first.
                    where = (result, *_region_of(result, shard))
                    into: Literal["place", "sum"] = "sum" if where in begun else "place"
                    begun.append(where)
                    shape = self._shape(result, shard)
                    returns[kind].append(ArrayRecv(0, f"{result}{number}", shape, shard.rank, tag, into))
                returns[kind].append(ArrayOutput(0, f"{result}{number}", kind * len(self.shards) + number))
            if remote:
                mine.append(ArrayFree(0, ("grad",) if variant.keep else ("grad", self._x(variant))))
        master += [ArrayInput(0, index + number, place) for number, place in enumerate([*places[0], *places[1]])]
        steps[MASTER] = [*master, *own, *returns[0], *returns[1]]
        return [
            Program(rank, self.session.ranks, self.spec.batch, (self._name,), (), tuple(todo), {}, self._name)
            for rank, todo in steps.items()
        ]

    def _x(self, variant: _Variant) -> str:
        """An inference between a forward and its backward pass does not change the kept input."""
        return "x" if variant.keep or (variant.backward and not variant.send_x) else "passing"

    def _needs(self, variant: _Variant, shard: Shard) -> list[tuple[str, tuple[int, ...]]]:
        needs = []
        if self._brings_x(variant, shard):
            needs.append(("x", shard.spec.input_shape))
        if variant.backward:
            needs.append(("grad", shard.spec.output_shape))
        if self._brings_weight(variant, shard):
            needs.append(("w", shard.spec.weight_shape))
        return [(name, tuple(shape)) for name, shape in needs]

    def _work(self, variant: _Variant, shard: Shard, suffix: str) -> list[tuple[AnyStep, str]]:
        """Each step with its result; the names of the master's arrays end in the shard's number."""
        x = "x" if suffix else self._x(variant)
        if not variant.backward:
            return [(ConvForward(0, shard.spec, x + suffix, "w" + suffix, "y" + suffix), "y")]
        work: list[tuple[AnyStep, str]] = []
        if variant.grad_x:
            work.append((ConvGradInput(0, shard.spec, "grad" + suffix, "w" + suffix, "gx" + suffix), "gx"))
        if variant.grad_w:
            work.append((ConvGradWeight(0, shard.spec, x + suffix, "grad" + suffix, "gw" + suffix), "gw"))
        return work

    def _shape(self, result: str, shard: Shard) -> tuple[int, ...]:
        shapes = {"y": shard.spec.output_shape, "gx": shard.spec.input_shape, "gw": shard.spec.weight_shape}
        return tuple(shapes[result])


def _region_of(result: str, shard: Shard) -> tuple[slice, ...]:
    """The part of y, gx or gw that a shard computes."""
    if result == "gw":
        return (shard.filters.slice(), shard.depth.slice())
    return _index(shard.output if result == "y" else shard.input)


def _index(region: Region) -> tuple[slice, ...]:
    return (slice(None), region.channels.slice(), region.rows.slice(), region.columns.slice())


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
