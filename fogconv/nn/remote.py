"""RemoteConv: one conv of one size, cut over the ranks of a session, forward and backward. No torch here.

    forward    x shard →            conv        → y shard      → sum over input groups, concatenate over output groups
    backward   grad_y shard →       grad_input  → grad_x shard → sum over output groups, concatenate over input groups
                                    grad_weight → grad_w shard → concatenate

Workers keep their weights until others come, and the input shard of the last forward pass for its backward pass.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fogconv.cluster.arrays import Arrays
from fogconv.cluster.interpreter import Executable
from fogconv.cluster.loaded import Loaded
from fogconv.cluster.session import Session
from fogconv.geometry import ConvSpec, Region
from fogconv.partition import Shard
from fogconv.program import (
    AnyStep,
    Bring,
    ConvForward,
    ConvGradInput,
    ConvGradWeight,
    Forget,
    Give,
    Program,
    Show,
    Take,
)

Array = NDArray[np.float32]

MASTER = 0

_numbers = itertools.count(1)


@dataclass(frozen=True)
class _Variant:
    """What one run does: ``ship`` weights, give (or find) the input ``x``, keep it, and which gradients."""

    backward: bool
    ship: bool
    send_x: bool = True
    keep: bool = False
    grad_x: bool = False
    grad_w: bool = False


@dataclass
class RemoteConv:
    """``shards`` cover the conv, one or none per rank. Raises what Session raises; after that it may be used again."""

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

        ``version`` counts the weight's changes: an older one than shipped, or other values, ship it again.
        ``keep`` leaves the input with the workers.
        """
        with self.lock:
            token = next(_numbers) if keep else 0
            ship = self._changed(weight, version)
            variant = _Variant(False, ship, keep=keep)
            outputs = self._run(variant, x, None, weight, version)
            if keep:
                self._kept = token
            y = np.empty(self.spec.output_shape, np.float32)
            _join(y, [(_index(shard.output), part) for shard, part in zip(self.shards, outputs, strict=True)])
        return y, token

    def backward(
        self, grad: Array, x: Array, weight: Array, version: int, token: int, *, grad_x: bool, grad_w: bool
    ) -> tuple[Array | None, Array | None]:
        """The gradients of x and of the weight, where asked for. Where the workers still hold the input of the forward
        pass that gave ``token``, it is not sent again."""
        with self.lock:
            ship = grad_x and self._changed(weight, version)
            there = token != 0 and token == self._kept
            variant = _Variant(True, ship, send_x=grad_w and not there, grad_x=grad_x, grad_w=grad_w)
            outputs = self._run(variant, x, grad, weight, version)
            count = len(self.shards)
            result_x = result_w = None
            if grad_x:
                result_x = np.zeros(self.spec.input_shape, np.float32)
                _join(result_x, [(_index(shard.input), part) for shard, part in zip(self.shards, outputs, strict=False)])
            if grad_w:
                result_w = np.empty(self.spec.weight_shape, np.float32)
                for shard, part in zip(self.shards, outputs[count if grad_x else 0 :], strict=True):
                    result_w[shard.filters.slice(), shard.depth.slice()] = part
        return result_x, result_w

    def unload(self) -> None:
        """Free what it takes on all ranks."""
        with self.lock:
            for loaded in self._loaded.values():
                if not self.session.closed:
                    self.session.unload(loaded)
            self._loaded.clear()
            self._shipped, self._kept = None, 0

    def _changed(self, weight: Array, version: int) -> bool:
        """A counter alone would miss writes through ``.data``; comparing takes less than a send of the same bytes."""
        return self._shipped is None or self._shipped[0] != version or not np.array_equal(self._shipped[1], weight)

    def _run(self, variant: _Variant, x: Array, grad: Array | None, weight: Array, version: int) -> list[Array]:
        loaded = self._loaded.get(variant)
        if loaded is None:
            loaded = self.session.load(self._programs(variant), {})
            if isinstance(loaded.executable, Executable):  # the master's packed weights serve all variants
                loaded.executable.arrays = self._arrays
            self._loaded[variant] = loaded
        if variant.ship or not self._cut:
            weight = weight.copy()  # what is shipped stays as it was, in this process too
            self._shipped = None
            self._cut = [np.ascontiguousarray(weight[shard.filters.slice(), shard.depth.slice()]) for shard in self.shards]
        try:
            outputs = self.session.run(loaded, self._inputs(variant, x, grad)).outputs
        except BaseException:
            self._shipped, self._kept = None, 0  # nobody knows who got what
            raise
        if variant.ship:
            self._shipped = version, weight
        return outputs

    # What goes in, in one order for arrays and steps: per shard x, grad_y, weight

    def _inputs(self, variant: _Variant, x: Array, grad: Array | None) -> list[Array]:
        cuts: dict[tuple[str, Region], Array] = {}

        def cut(name: str, array: Array, region: Region) -> Array:
            if (name, region) not in cuts:  # shards that read the same share one copy
                cuts[name, region] = np.ascontiguousarray(array[_index(region)])
            return cuts[name, region]

        arrays = []
        for shard, weight in zip(self.shards, self._cut, strict=True):
            if self._brings_x(variant, shard):
                arrays.append(cut("x", x, shard.input))
            if grad is not None:
                arrays.append(cut("grad", grad, shard.output))
            if self._brings_weight(variant, shard):
                arrays.append(weight)
        return arrays

    def _brings_x(self, variant: _Variant, shard: Shard) -> bool:
        """The master's own input lies in its memory anyway."""
        return variant.send_x or (shard.rank == MASTER and variant.grad_w)

    def _brings_weight(self, variant: _Variant, shard: Shard) -> bool:
        return variant.ship or (shard.rank == MASTER and (variant.grad_x or not variant.backward))

    # Programs

    def _programs(self, variant: _Variant) -> list[Program]:
        tags = itertools.count(1)
        steps: dict[int, list[AnyStep]] = {MASTER: []}
        master = steps[MASTER]
        own: list[AnyStep] = []
        returns: tuple[list[AnyStep], list[AnyStep]] = ([], [])  # the first result of all ranks, then the second
        index = 0
        for number, shard in enumerate(self.shards):
            remote = shard.rank != MASTER
            mine = steps.setdefault(shard.rank, [])
            for name, shape in self._needs(variant, shard):
                master.append(Bring(0, index, f"{name}{number}"))
                index += 1
                if remote:
                    tag = next(tags)
                    master.append(Give(0, f"{name}{number}", shard.rank, tag))
                    mine.append(Take(0, name if name != "x" else self._x(variant), shape, MASTER, tag))
            for kind, (step, result) in enumerate(self._work(variant, shard, "" if remote else str(number))):
                (mine if remote else own).append(step)
                if remote:
                    tag = next(tags)
                    mine.append(Give(0, result, MASTER, tag))
                    returns[kind].append(Take(0, f"{result}{number}", self._shape(result, shard), shard.rank, tag))
                returns[kind].append(Show(0, f"{result}{number}", kind * len(self.shards) + number))
            if remote:
                mine.append(Forget(0, ("grad",) if variant.keep else ("grad", self._x(variant))))
        steps[MASTER] = [*master, *own, *returns[0], *returns[1]]
        return [
            Program(rank, self.session.ranks, self.spec.batch, (self._name,), (), tuple(todo), {}, self._name)
            for rank, todo in steps.items()
        ]

    def _x(self, variant: _Variant) -> str:
        """An inference between a forward and its backward pass leaves the kept input alone."""
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
        """Each step with what it results in; the master's arrays have the shard's number behind their names."""
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


def _index(region: Region) -> tuple[slice, slice, slice, slice]:
    return (slice(None), region.channels.slice(), region.rows.slice(), region.columns.slice())


def _join(whole: Array, parts: Sequence[tuple[tuple[slice, ...], Array]]) -> None:
    """Parts of one place are summed, others lie side by side."""
    seen: set[tuple[tuple[int, int], ...]] = set()
    for index, part in parts:
        place = tuple((cut.start, cut.stop) for cut in index)
        if place in seen:
            whole[index] += part
        else:
            whole[index] = part
            seen.add(place)
