"""Calculator: the analytic model over the layers of a net, as rows for a table, JSON or a figure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from functools import cache
from typing import Any

from fogconv.errors import InputError
from fogconv.hardware.topology import Link, Topology
from fogconv.ir.geometry import ConvSpec
from fogconv.speedup import broadcast
from fogconv.speedup.conv_tables import NamedConv
from fogconv.speedup.model import (
    Rates,
    Split,
    Terms,
    Whole,
    best_n,
    break_even_bandwidth,
    energy_j,
    least_depth,
    least_depth_by,
    splits,
    t_cld,
    t_local,
)
from fogconv.speedup.trigger import DEFAULT_THRESHOLD, Decision, Trigger, decide, master_rates

MOST_WORKERS = 1024
"""The largest number of workers among which ``best_n`` is searched for."""


class Media(StrEnum):
    """Unicast: what goes to several workers is sent to each. Broadcast: it is sent once, as in the paper."""

    UNICAST = "unicast"
    BROADCAST = "broadcast"


@dataclass(frozen=True, slots=True)
class Question:
    """The question for every layer. ``topology`` holds the available workers.

    Raises InputError for a master that computes on a broadcast medium: the paper's formula has none.
    """

    topology: Topology
    trigger: Trigger = Trigger()
    threshold: float = DEFAULT_THRESHOLD
    master_computes: bool = False
    media: Media = Media.UNICAST

    def __post_init__(self) -> None:
        if self.media is Media.BROADCAST and self.master_computes:
            raise InputError("--media broadcast is the paper's model, in which the master does not compute; leave that out")

    @property
    def workers(self) -> int:
        return len(self.topology.workers)


@dataclass(frozen=True, slots=True)
class Row:
    """One layer's answers. ``terms`` are of the cheapest split; ``chosen_s`` is its time by the trigger's decision."""

    name: str
    spec: ConvSpec
    decision: Decision
    best_n: int
    break_even_bytes_per_s: float | None
    local_j: float
    cloud_j: float

    @property
    def terms(self) -> Terms:
        return self.decision.predicted or Terms(0.0, 0.0, self.decision.local_s, 0.0, 0.0)

    @property
    def chosen_s(self) -> float:
        return self.terms.total_s if self.decision.distribute else self.decision.local_s

    def json(self) -> dict[str, Any]:
        spec, decision = self.spec, self.decision
        kh, kw = spec.kernel
        return {
            "name": self.name,
            "c": spec.in_channels,
            "f": spec.out_channels,
            "k": kh if kh == kw else [kh, kw],
            "h": spec.out_height,
            "w": spec.out_width,
            "groups": spec.groups,
            "stride": list(spec.stride),
            "macs": spec.macs,
            "bound_s_paper": decision.bound_s_paper,
            "bound_s_star": decision.bound_s_star,
            "bound_gain": decision.bound_gain,
            "estimate": decision.estimate,
            "best_n": self.best_n,
            "distributed": decision.distribute,
            "reason": decision.reason,
            "split": str(decision.split) if decision.split is not None else None,
            "terms": {"local_s": decision.local_s, **asdict(self.terms), "total_s": self.terms.total_s},
            "break_even_bytes_per_s": self.break_even_bytes_per_s,
            "energy_j": {"local": self.local_j, "distributed": self.cloud_j},
        }


@dataclass(frozen=True, slots=True)
class Report:
    """All layers of a net (or one), and their sums: by the formula, one layer after the other. ``whole`` is what inferences
    take, where the net's graph is known: a star's layers overlap, and a worker that holds an input is not sent it again."""

    rows: tuple[Row, ...]
    question: Question
    whole: Whole | None = None

    @property
    def local_s(self) -> float:
        return sum(row.decision.local_s for row in self.rows)

    @property
    def all_s(self) -> float:
        """Every layer distributed."""
        return sum(row.terms.total_s for row in self.rows)

    @property
    def chosen_s(self) -> float:
        return sum(row.chosen_s for row in self.rows)

    def total(self) -> dict[str, Any]:
        terms = sum((row.terms for row in self.rows), Terms(0.0, 0.0, 0.0, 0.0, 0.0))
        return {
            "layers": len(self.rows),
            "distributed": sum(row.decision.distribute for row in self.rows),
            "workers": self.question.workers,
            "media": self.question.media.value,
            "macs": sum(row.spec.macs for row in self.rows),
            "local_s": self.local_s,
            "all_distributed_s": self.all_s,
            "chosen_s": self.chosen_s,
            "speedup_all": self.local_s / self.all_s if self.all_s else 0.0,
            "speedup": self.local_s / self.chosen_s if self.chosen_s else 0.0,
            "predicted": None if self.whole is None else asdict(self.whole),
            "terms": {**asdict(terms), "total_s": terms.total_s},
            "energy_j": {
                "local": sum(row.local_j for row in self.rows),
                "chosen": sum(row.cloud_j if row.decision.distribute else row.local_j for row in self.rows),
            },
        }

    def json(self) -> dict[str, Any]:
        return {"layers": [row.json() for row in self.rows], "total": self.total()}


def report(layers: Iterable[NamedConv], question: Question) -> Report:
    """Answer for every layer; layers of one shape are computed once."""
    answer = cache(lambda spec: _row(spec, question))
    return Report(tuple(replace(answer(layer.spec), name=layer.name) for layer in layers), question)


def _row(spec: ConvSpec, question: Question) -> Row:
    topology = question.topology
    decision = _decided(spec, question)
    if not question.workers:
        return Row("", spec, decision, 0, None, 0.0, 0.0)
    rates = master_rates(topology, spec)
    threshold = question.threshold if 0 < question.threshold < math.inf else 1.0
    if question.media is Media.BROADCAST:
        best, even = MOST_WORKERS, broadcast.break_even_bandwidth(spec, rates, question.workers, threshold)
    else:
        computes = question.master_computes
        best = best_n(spec, rates, MOST_WORKERS, master_computes=computes)
        even = break_even_bandwidth(spec, rates, question.workers, threshold=threshold, master_computes=computes)
    joules_per_mac = topology.devices[0].joules_per_mac
    joules_per_byte = topology.link(0, 1).joules_per_byte
    return Row(
        "",
        spec,
        decision,
        best,
        even,
        energy_j(spec, None, joules_per_mac, joules_per_byte),
        energy_j(spec, decision.split or Split(), joules_per_mac, joules_per_byte),
    )


def _decided(spec: ConvSpec, question: Question) -> Decision:
    topology = question.topology
    if question.media is Media.BROADCAST and question.workers:
        rates = master_rates(topology, spec)
        return broadcast.decide(spec, rates, question.workers, question.trigger, question.threshold)
    return decide(
        spec,
        topology,
        trigger=question.trigger,
        threshold=question.threshold,
        master_computes=question.master_computes,
    )


def depth_that_pays(question: Question, kernel: int, size: int) -> tuple[int | None, int | None]:
    """The least c = f by the bound, and by the estimate for the available workers."""
    if not question.workers:
        return None, None
    spec = ConvSpec(64, 64, size, size, (kernel, kernel), padding=((kernel - 1) // 2, kernel // 2) * 2)
    rates = master_rates(question.topology, spec)
    pair = (kernel, kernel)
    if question.media is Media.BROADCAST:
        by_estimate = least_depth_by(lambda layer: broadcast.estimate(layer, rates, question.workers) > 1.0, pair, size)
        return least_depth(rates, pair, size), by_estimate
    return least_depth(rates, pair, size), least_depth(
        rates, pair, size, n=question.workers, master_computes=question.master_computes
    )


def curve(
    spec: ConvSpec, rates: Rates, most: int, *, master_computes: bool = False, media: Media = Media.UNICAST
) -> list[float]:
    """T_local ÷ T_cld with at most n workers, n = 1 … most."""
    if media is Media.BROADCAST:
        return [broadcast.estimate(spec, rates, n) for n in range(1, most + 1)]
    best, found = math.inf, []
    for n in range(1, most + 1):
        parts = n + 1 if master_computes else n
        for split in splits(spec, parts):
            best = min(best, t_cld(spec, rates, split, master_computes=master_computes).total_s)
        if not math.isfinite(best):  # a single channel can't be divided with a master that computes
            best = t_cld(spec, rates, Split()).total_s
        found.append(t_local(spec, rates) / best)
    return found


def net_curve(layers: Sequence[NamedConv], question: Question, most: int) -> list[float]:
    """The net's T_local ÷ Σ of the better of home and T_cld per layer, n = 1 … most."""

    def curves(spec: ConvSpec, rates: Rates) -> list[float]:
        return curve(spec, rates, most, master_computes=question.master_computes, media=question.media)

    counts: dict[ConvSpec, int] = {}
    for layer in layers:
        counts[layer.spec] = counts.get(layer.spec, 0) + 1
    local, shared = 0.0, [0.0] * most
    for spec, count in counts.items():
        rates = master_rates(question.topology, spec)
        alone = t_local(spec, rates)
        local += count * alone
        for n, ratio in enumerate(curves(spec, rates)):
            shared[n] += count * alone / max(1.0, ratio)
    return [local / seconds for seconds in shared]


def net_at(layers: Sequence[NamedConv], question: Question, n: int) -> float:
    """The net's T_local ÷ Σ of the better of home and T_cld per layer, on a broadcast medium with n workers."""
    local = shared = 0.0
    for layer in layers:
        rates = master_rates(question.topology, layer.spec)
        alone = t_local(layer.spec, rates)
        local += alone
        shared += min(alone, broadcast.t_cld(layer.spec, rates, n).total_s)
    return local / shared


def crowd_estimate(spec: ConvSpec, question: Question) -> float:
    """T_local ÷ T_cld on a broadcast medium with so many workers that one more changes nothing."""
    return broadcast.estimate(spec, master_rates(question.topology, spec), broadcast.CROWD)


@dataclass(frozen=True, slots=True)
class SweepPoint:
    """The totals at one value of the swept quantity (bytes/s, FLOP/s or seconds)."""

    value: float
    bound_s_paper: float
    bound_s_star: float
    bound_gain: float
    estimate: float
    distributed: int
    speedup: float


def sweep(
    layers: Sequence[NamedConv], question: Question, name: str, least: float, greatest: float, points: int = 25
) -> tuple[SweepPoint, ...]:
    """``report`` at ``points`` values between two, evenly spaced by their logarithm. Bounds are the best layer's."""
    return tuple(_sweep(layers, question, name, least, greatest, points))


def _sweep(
    layers: Sequence[NamedConv], question: Question, name: str, least: float, greatest: float, points: int
) -> Iterator[SweepPoint]:
    for index in range(points):
        value = least * (greatest / least) ** (index / (points - 1))
        changed = replace(question, topology=with_figure(question.topology, name, value))
        decisions = {spec: _decided(spec, changed) for spec in {layer.spec for layer in layers}}
        found = [decisions[layer.spec] for layer in layers]
        local = sum(one.local_s for one in found)
        chosen = sum(one.predicted.total_s if one.distribute and one.predicted else one.local_s for one in found)
        yield SweepPoint(
            value,
            max(one.bound_s_paper for one in found),
            max(one.bound_s_star for one in found),
            max(one.bound_gain for one in found),
            max(one.estimate for one in found),
            sum(one.distribute for one in found),
            local / chosen,
        )


def with_figure(topology: Topology, name: str, value: float) -> Topology:
    """The topology with every link's bandwidth or latency, or every device's rate, set to one value."""
    if name == "rate":
        ratio = value / (2 * topology.rate(0))
        return replace(topology, devices=tuple(device.scaled(ratio) for device in topology.devices))

    def changed(link: Link) -> Link:
        if name == "bandwidth":
            return replace(link, s_per_byte=1 / value)
        if name == "latency":
            return replace(link, latency_s=value)
        raise InputError(f"{name} can't be swept; bandwidth, rate and latency can")

    return Topology(
        topology.devices,
        {pair: changed(link) for pair, link in topology.links.items()},
        None if topology.default_link is None else changed(topology.default_link),
    )
