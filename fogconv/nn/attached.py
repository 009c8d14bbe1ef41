"""Attached: data that layers share beside their session: its topology, and decisions for conv sizes."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass, replace
from weakref import WeakKeyDictionary

from fogconv.calibration.calibration import calibrate_quickly
from fogconv.cluster.session.session import Session
from fogconv.errors import InputError
from fogconv.hardware.topology import Topology
from fogconv.ir.geometry import ConvSpec
from fogconv.ir.shard import Shard, conv_grid
from fogconv.nn.remote import RemoteConv
from fogconv.planning.plan_options import PlanOptions
from fogconv.speedup.trigger import decide, needs_figures

SplitChoice = str | tuple[int, int]
"""'auto', 'input', 'output', or (p, q): p input groups × q output groups."""


@dataclass(frozen=True)
class Verdict:
    """Whether a conv is distributed, how, and why. ``shards`` are empty where it stays on the master."""

    distribute: bool
    reason: str
    split: str | None = None
    shards: tuple[Shard, ...] = ()
    bound: float | None = None
    estimate: float | None = None


class Attached:
    """One per session. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._topology: Topology | None = None
        self._unwanted: deque[RemoteConv] = deque()

    def topology(self, session: Session) -> Topology:
        """The session's topology, measured once, in about two seconds (or read from the calibration cache)."""
        with self._lock:
            if self._topology is None:
                self._topology = calibrate_quickly(session).topology
            return self._topology

    def discard(self, remote: RemoteConv) -> None:
        """Let the next call unload a layer's programs: a garbage collector's thread must not wait for locks."""
        self._unwanted.append(remote)

    def clear(self) -> None:
        while self._unwanted:
            self._unwanted.popleft().unload()

    def decide(self, session: Session, spec: ConvSpec, split: SplitChoice, options: PlanOptions) -> Verdict:
        """The verdict of `fogconv.speedup.trigger.decide` over the workers that are not lost; ``split`` overrides its
        choice of the cut.

        Raises InputError for a split that needs more ranks than there are.
        """
        alive = [0, *(info.rank for info in session.workers if info.rank not in session.lost)]
        if len(alive) < 2:
            return Verdict(False, "no workers")
        measured = needs_figures(options.trigger, options.threshold)
        topology = self.topology(session) if measured else _unmeasured(session.ranks)
        decision = decide(
            spec,
            topology.subset(alive),
            trigger=options.trigger,
            threshold=options.threshold,
            master_computes=options.master_computes,
            even=options.even or not measured,
        )
        bound, estimate = decision.bound_s_paper, decision.estimate
        if not decision.distribute:
            return Verdict(False, decision.reason, bound=bound, estimate=estimate)
        if split == "auto":
            shards = tuple(replace(shard, rank=alive[shard.rank]) for shard in decision.shards)
            return Verdict(bool(shards), decision.reason, str(decision.split), shards, bound, estimate)
        p, q = _grid(split, len(alive))
        if p * q > len(alive):
            raise InputError(f"a split of {p}×{q} needs {p * q} ranks; this cluster has {len(alive)}, the master included")
        ranks = alive[: p * q]
        weights = [topology.rate(rank) if measured else 1.0 for rank in ranks]
        shards = conv_grid(spec, ranks, p, weights)
        name = f"groups:{len(shards)}" if spec.groups > 1 else f"grid:{p}x{q}"
        return Verdict(True, decision.reason, name, shards, bound, estimate)


def _unmeasured(ranks: int) -> Topology:
    """Equal devices of 10 GFLOP/s on gigabit links: where a fixed rule decides, they only determine the split."""
    return Topology.uniform(ranks, 1e10, 1.25e8, 1e-4)


def _grid(split: SplitChoice, ranks: int) -> tuple[int, int]:
    if split == "input":
        return ranks, 1
    return split if isinstance(split, tuple) else (1, ranks)


def check_split(split: SplitChoice) -> SplitChoice:
    """Raises InputError for anything but 'auto', 'input', 'output' and a pair of positive numbers."""
    if split in ("auto", "input", "output"):
        return split
    if isinstance(split, tuple | list) and len(split) == 2 and all(isinstance(part, int) and part > 0 for part in split):
        return (split[0], split[1])
    raise InputError(f"split is {split!r}; it must be 'auto', 'input', 'output' or a pair (p, q)")


_attached: WeakKeyDictionary[Session, Attached] = WeakKeyDictionary()
_attaching = threading.Lock()


def attached(session: Session) -> Attached:
    with _attaching:
        if session not in _attached:
            _attached[session] = Attached()
        return _attached[session]
