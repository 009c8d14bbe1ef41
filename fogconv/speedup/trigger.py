"""The trigger: whether a conv layer is distributed, and how. The command line and the torch module both call ``decide``.

    bound       S > threshold: the paper's bound, whatever the number of workers
    estimate    T_local/T_cld > threshold, for the best split over the available workers
    both        both of them (the default)
    channels:N  more than N input channels: the fixed rule of the paper's experiments

A threshold of 0 distributes every conv that can be, an infinite one none.

Here devices and links may be uneven: T_cld is computed for the exact shards that `fogconv.ir.layout` cuts. The master's
card sends to one worker after the other, as in the paper, so that the busiest card decides; a slow worker's own card may
be busier:

    n·T_tx = Σ (wake + messages·α) + max(bytes through the master's card, bytes to one worker over its own link)

With the master computing a share, its shard is neither cut nor sent, and T_edge is the slowest rank's, its own included. The
bound still holds: for a share x on the master T_cld ≥ T_local·((1−x)/S + x), so that T_local/T_cld ≤ max(S, 1).
"""

from __future__ import annotations

import heapq
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from fogconv.errors import GeometryError, InputError, shown
from fogconv.hardware.topology import Link, Topology, kernel_class
from fogconv.ir.geometry import BYTES_PER_ELEMENT, ConvSpec
from fogconv.ir.shard import Shard, conv_grid
from fogconv.simulation.simulator import Seconds
from fogconv.speedup.model import Rates, Split, Terms, most_gain, s_paper, s_star, splits, t_cld
from fogconv.values import table

DEFAULT_TRIGGER = "both"
DEFAULT_THRESHOLD = 1.0

EXACT = 6
"""The number of splits, the best by the formula for equal devices, that are computed shard by shard."""


@dataclass(frozen=True, slots=True)
class Trigger:
    """``kind`` is one of bound, estimate, both, channels; ``channels`` is N of ``channels:N``."""

    kind: str = DEFAULT_TRIGGER
    channels: int = 0

    @staticmethod
    def parse(text: str) -> Trigger:
        """Raises InputError for anything but both, bound, estimate, channels:N."""
        kind, colon, number = text.partition(":")
        if kind in ("both", "bound", "estimate") and not colon:
            return Trigger(kind)
        if kind == "channels" and colon:
            try:
                return Trigger(kind, int(table.DEPTH.read(number)))
            except InputError:
                most = f"{table.DEPTH.most:.0f}"
                raise InputError(f"trigger {shown(text)}, where channels:N takes a whole N from 0 to {most}") from None
        raise InputError(f"trigger {shown(text)}: it is one of both, bound, estimate, channels:N (as in channels:60)")

    def __str__(self) -> str:
        return f"channels:{self.channels}" if self.kind == "channels" else self.kind


def check_threshold(value: float) -> float:
    """Raises InputError for a threshold that is negative or no number."""
    table.THRESHOLD.check("threshold", value)
    return value


def needs_figures(trigger: str, threshold: float) -> bool:
    """Whether the decision depends on how fast devices and links are."""
    return threshold > 0 and not math.isinf(threshold) and Trigger.parse(trigger).kind != "channels"


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do with one layer, and why.

    ``bound_s_paper`` is S for any number of workers, ``bound_s_star`` S_star for as many as ``estimate`` uses, and
    ``bound_gain`` what all workers that there are, or fewer, can gain at most (`most_gain`).
    ``split``, ``ranks``, ``weights``, ``shards`` and ``predicted`` describe the cheapest distribution, chosen or not:
    ``conv_grid(spec, ranks, split.p, weights)`` gives the shards. They are None or empty where none is possible.
    """

    distribute: bool
    reason: str
    bound_s_paper: float
    bound_s_star: float
    bound_gain: float
    estimate: float
    local_s: float
    split: Split | None = None
    ranks: tuple[int, ...] = ()
    weights: tuple[float, ...] = ()
    shards: tuple[Shard, ...] = ()
    predicted: Terms | None = None


def decide(
    spec: ConvSpec,
    topology: Topology,
    *,
    trigger: str | Trigger = DEFAULT_TRIGGER,
    threshold: float = DEFAULT_THRESHOLD,
    master_computes: bool = False,
    even: bool = False,
    seconds: Seconds | None = None,
    parts: int | None = None,
    split: Split | None = None,
) -> Decision:
    """Distribute this layer or not, and over which split: the one with the least T_cld over any of the workers.

    ``parts`` or ``split`` leave no choice: so many parts, or this very cut. A layer with too few channels, or a cluster
    with too few ranks, gets as many parts as there can be; a grouped conv is cut along whole groups. ``even`` gives all
    ranks equal shares instead of shares by their rate; ``seconds`` replaces γ·MACs by another predictor. Raises InputError
    for an unknown trigger and for a threshold that is negative or no number.
    """
    rule = Trigger.parse(trigger) if isinstance(trigger, str) else trigger
    check_threshold(threshold)
    cost = seconds or (lambda rank, shard: topology.devices[rank].conv_s(shard))
    local_s = cost(0, spec)
    if not len(topology.workers):
        return Decision(False, "no workers", 0.0, 0.0, 0.0, 0.0, local_s)
    rates, most = master_rates(topology, spec), len(topology.workers)
    bound, gain = s_paper(spec, rates), most_gain(spec, rates, most, master_computes=master_computes)
    forced = None if parts is None and split is None else _forced(spec, len(topology) - 1 + master_computes, parts, split)
    best = _cheapest(spec, topology, master_computes=master_computes, even=even, cost=cost, forced=forced)
    if best is None:
        star = s_star(spec, rates, most, master_computes=master_computes)
        return Decision(False, "too few channels to share", bound, star, gain, 0.0, local_s)
    cut, ranks, weights, shards, terms = best
    computing = master_computes and 0 in ranks
    star = s_star(spec, rates, sum(rank != 0 for rank in ranks), master_computes=computing)
    ratio = local_s / terms.total_s if terms.total_s else math.inf
    distribute, reason = judge(rule, threshold, spec, bound, ratio)
    return Decision(distribute, reason, bound, star, gain, ratio, local_s, cut, ranks, weights, shards, terms)


def cluster_terms(spec: ConvSpec, topology: Topology, shards: Sequence[Shard], *, cost: Seconds | None = None) -> Terms:
    """The five terms of T_cld for these shards; those of rank 0 stay at home."""
    seconds = cost or (lambda rank, shard: topology.devices[rank].conv_s(shard))
    master = topology.devices[0]
    away = [shard for shard in shards if shard.rank != 0]
    cut = sum(region.elements for region in {shard.input for shard in away}) * spec.batch
    joined = sum(shard.output.elements for shard in away) * spec.batch
    sent: list[tuple[Link, float]] = [(topology.link(0, shard.rank), shard.input.elements * spec.batch) for shard in away]
    returned: list[tuple[Link, float]] = [
        (topology.link(shard.rank, 0), shard.output.elements * spec.batch) for shard in away
    ]
    tx, rx = topology.card(0)
    computing: dict[int, float] = defaultdict(float)
    for shard in shards:
        computing[shard.rank] += seconds(shard.rank, shard.spec)
    return Terms(
        master.copy_s(cut * BYTES_PER_ELEMENT),
        wire_s(sent, tx),
        topology.together_s(computing),
        wire_s(returned, rx),
        master.copy_s(joined * BYTES_PER_ELEMENT),
    )


def master_rates(topology: Topology, spec: ConvSpec | None = None, workers: Sequence[int] | None = None) -> Rates:
    """The closest figures for equal devices: the master's γ for this layer, the mean α and wake-up time, and the master's
    card (the mean of both ways). For ``workers`` given, γ and the fixed step are their means."""
    kind = kernel_class(spec) if spec is not None else "default"
    used = list(topology.workers) if workers is None else [rank for rank in workers if rank]
    links = [link for rank in used for link in (topology.link(0, rank), topology.link(rank, 0))]
    computing = [topology.devices[rank] for rank in (workers or (0,))]
    tx, rx = topology.card(0)
    return Rates(
        gamma=fmean(device.gamma(kind) for device in computing),
        beta=max((tx + rx) / 2, 1e-15) * BYTES_PER_ELEMENT,
        alpha=fmean(link.latency_s for link in links),
        message=min((link.message_elements for link in links if link.message_elements), default=None),
        copy=topology.devices[0].copy_s_per_byte * BYTES_PER_ELEMENT,
        wake=fmean(link.wake_s for link in links),
        step=fmean(device.step_s for device in computing),
    )


def judge(rule: Trigger, threshold: float, spec: ConvSpec, bound: float, ratio: float) -> tuple[bool, str]:
    """The verdict on S and T_local ÷ T_cld, and its reason."""
    if threshold == 0:
        return True, "threshold 0: every conv"
    if math.isinf(threshold):
        return False, "threshold inf: none"
    if rule.kind == "channels":
        more = spec.in_channels > rule.channels
        return more, f"{spec.in_channels} channels {'>' if more else '≤'} {rule.channels}"
    tests = {"bound": [("S", bound)], "estimate": [("estimate", ratio)]}
    asked = tests.get(rule.kind, [*tests["bound"], *tests["estimate"]])
    failed = [(name, value) for name, value in asked if not value > threshold]
    if failed:
        name, value = failed[0]
        return False, f"{name} {value:.3g} ≤ {threshold:g}"
    return True, ", ".join(f"{name} {value:.3g}" for name, value in asked) + f" > {threshold:g}"


_Best = tuple[Split, tuple[int, ...], tuple[float, ...], tuple[Shard, ...], Terms]


def parse_split(text: str) -> Split:
    """ "input:4", "output:4" or "grid:2x2" (input × output groups), of at least 2 parts. Raises InputError for others."""
    kind, _, numbers = text.partition(":")
    words = numbers.split("x")
    found = [int(word) for word in words if word.isascii() and word.isdigit() and len(word) <= len(str(table.PARTS.most))]
    if len(found) == len(words) == (2 if kind == "grid" else 1) and min(found) >= 1:
        split = {"input": Split(p=found[0]), "output": Split(q=found[0]), "grid": Split(*found)}.get(kind)
        if split is not None and table.PARTS.least <= split.parts <= table.PARTS.most:
            return split
    least, most = int(table.PARTS.least), int(table.PARTS.most)
    raise InputError(
        f"split {shown(text)}: write input:N, output:N or grid:PxQ, such as grid:2x2, of {least} to {most} parts"
    )


def _forced(spec: ConvSpec, ranks: int, parts: int | None, split: Split | None) -> list[Split]:
    """The splits that are left to choose from; none where the layer or the cluster has no room for two parts."""
    if split is None:
        fewer = range(min(parts or ranks, ranks), 1, -1)
        return next((found for count in fewer if (found := list(splits(spec, count)))), [])
    if spec.groups > 1:
        cut = Split(groups=min(split.parts, spec.groups, ranks))
    else:
        p = min(split.p, spec.in_channels, ranks)
        cut = Split(p, min(split.q, spec.out_channels, max(1, ranks // p)))
    return [cut] if cut.parts > 1 else []


def _cheapest(
    spec: ConvSpec,
    topology: Topology,
    *,
    master_computes: bool,
    even: bool,
    cost: Seconds,
    forced: Sequence[Split] | None,
) -> _Best | None:
    """The split, ranks and shares with the least T_cld: all splits by the formula for equal devices, the best few
    exactly."""
    order = sorted(topology.workers, key=lambda rank: _alone_s(spec, topology, rank, cost))
    kind = kernel_class(spec)
    best: _Best | None = None
    if forced is None:
        candidates = _candidates(spec, topology, order, master_computes)
    else:
        first = (0,) if master_computes else ()
        candidates = ((0.0, cut, (*first, *order[: cut.parts - len(first)])) for cut in forced)
    for _, split, ranks in heapq.nsmallest(EXACT, candidates, key=lambda candidate: candidate[0]):
        weights = tuple(1.0 if even else topology.rate(rank, kind) for rank in ranks)
        try:
            shards = conv_grid(spec, ranks, split.p, weights)
        except GeometryError:
            continue
        if not any(shard.rank for shard in shards):
            continue
        terms = cluster_terms(spec, topology, shards, cost=cost)
        if best is None or terms.total_s < best[4].total_s:
            best = (split, ranks, weights, shards, terms)
    return best


def _candidates(
    spec: ConvSpec, topology: Topology, order: Sequence[int], master_computes: bool
) -> Iterator[tuple[float, Split, tuple[int, ...]]]:
    """(approximate T_cld, split, ranks) for every split over the best m workers, and the master where it computes."""
    base = master_rates(topology, spec, order[:1])
    kind = kernel_class(spec)
    sums = [0.0] * 4
    if master_computes:
        sums[0], sums[1] = topology.devices[0].gamma(kind), topology.devices[0].step_s
    for m, rank in enumerate(order, start=1):
        # Running sums, so that a thousand workers are not averaged a thousand times.
        device, there, back = topology.devices[rank], topology.link(0, rank), topology.link(rank, 0)
        sums[0] += device.gamma(kind)
        sums[1] += device.step_s
        sums[2] += (there.latency_s + back.latency_s) / 2
        sums[3] += (there.wake_s + back.wake_s) / 2
        ranks = (0, *order[:m]) if master_computes else tuple(order[:m])
        parts = len(ranks)
        mean = replace(base, gamma=sums[0] / parts, step=sums[1] / parts, alpha=sums[2] / m, wake=sums[3] / m)
        for split in splits(spec, parts):
            yield t_cld(spec, mean, split, master_computes=master_computes).total_s, split, ranks
    if master_computes and not any(splits(spec, 2)):  # a single channel: it goes to a worker or stays
        yield t_cld(spec, base, Split()).total_s, Split(), (order[0],)


def _alone_s(spec: ConvSpec, topology: Topology, rank: int, cost: Seconds) -> float:
    there, back = topology.link(0, rank), topology.link(rank, 0)
    return cost(rank, spec) + there.seconds(spec.input_elements) + back.seconds(spec.output_elements)


def wire_s(transfers: Sequence[tuple[Link, float]], card_s_per_byte: float) -> float:
    """The master's card takes one transfer after the other; a link slower than the card may take longer than all
    transfers together."""
    if not transfers:
        return 0.0
    fixed = sum(link.wake_s + link.messages(elements) * link.latency_s for link, elements in transfers)
    through_card = sum(elements for _, elements in transfers) * BYTES_PER_ELEMENT * card_s_per_byte
    slowest = max(elements * BYTES_PER_ELEMENT * link.s_per_byte for link, elements in transfers)
    return fixed + max(through_card, slowest)
