"""Noise: what the spread of measured rates leaves open.

    rivals      which other schemes' plans are predicted within the noise of the chosen one
    stability   which rates would change the plan if they were at an end of their spread

Rates have the names that a profile's ``spreads`` give them: "gamma rank 1 winograd", "alpha 0↔1", "beta 0→1".
"""

from __future__ import annotations

import math
import random
import re
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from fogconv.calibration.devices import DENSE
from fogconv.errors import InputError, PlannerError
from fogconv.hardware.profile import Stability
from fogconv.hardware.topology import Link, Topology, kernel_class
from fogconv.ir.graph import LayerGraph
from fogconv.ir.layers import Conv
from fogconv.ir.layout import MASTER
from fogconv.ir.plan import Plan
from fogconv.planning.cost import Prices
from fogconv.planning.limits.goal import Goal
from fogconv.planning.plan_options import PlanOptions
from fogconv.planning.planner import plan as make_plan
from fogconv.planning.schemes import STREAMS, Scheme

DRAWS = 4
"""Plans with every rate at one end of its spread, by a seeded coin. If none of them differs, no rate is tried alone."""
BUDGET_S = 20.0
"""After so long no further plan is made."""
LEAST_SPREAD = 0.005

MOST_EFFORT = 40_000
"""Layers × ranks² × what a scheme takes: a search of that size takes some seconds."""
_EFFORTS = {
    Scheme.LOCAL: 0,
    Scheme.STAR: 0,
    Scheme.ROWS: 1,
    Scheme.COLUMNS: 1,
    Scheme.TILES: 2,
    Scheme.DEPTH: 1,
    Scheme.OFFLOAD: 1,
    Scheme.AUTO: 4,
}

_GAMMA = re.compile(r"gamma rank (\d+) (\w+)")
_ALPHA = re.compile(r"alpha (\d+)↔(\d+)")
_BETA = re.compile(r"beta (\d+)→(\d+)")
_LINKS = "links"

Cuts = tuple[tuple[str, str | None, frozenset[int]], ...]


@dataclass(frozen=True, slots=True)
class Rival:
    """Another scheme's plan. ``noise_s``: by how much the difference of the two predictions is uncertain; None where no
    spread is known. ``same``: every layer is computed by the same ranks from the same regions."""

    scheme: str
    predicted_s: float
    same: bool
    noise_s: float | None
    within: bool


def cuts(plan: Plan) -> Cuts:
    """How each layer is cut and over which ranks, without the sizes of the shares, which follow every rate."""
    return tuple((each.mode, each.split, frozenset(work.rank for work in each.work)) for each in plan.placements)


def rivals(
    graph: LayerGraph, chosen: Plan, topology: Topology, options: PlanOptions, spreads: Mapping[str, float]
) -> tuple[Rival, ...]:
    """The plans of other schemes, the fastest first. Left out are those that fit into no memory, and those that are
    too much work to look for (MOST_EFFORT). None where the plan is to save something else than time."""
    if options.goal != Goal() or options.scheme in STREAMS:
        return ()
    own = _terms(graph, chosen, topology)
    known = {name: spread for name, spread in spreads.items() if spread > 0}
    found = []
    for scheme, effort in _EFFORTS.items():
        if scheme == chosen.scheme or effort * len(graph.layers) * len(topology) ** 2 > MOST_EFFORT:
            continue
        try:
            other = make_plan(graph, topology, _options(options, scheme))
        except (PlannerError, InputError):  # a pin that the star can't keep
            continue
        if other.predicted_s is None or chosen.predicted_s is None:
            continue
        if scheme is Scheme.OFFLOAD and other.active_ranks == {MASTER}:
            continue  # the master alone, as --scheme local
        same = [each.work for each in other.placements] == [each.work for each in chosen.placements]
        noise_s = _noise_s(own, _terms(graph, other, topology), known) if known else None
        within = same or (noise_s is not None and abs(other.predicted_s - chosen.predicted_s) <= noise_s)
        found.append(Rival(str(scheme), other.predicted_s, same, noise_s, within))
    return tuple(sorted(found, key=lambda each: each.predicted_s))


def _options(options: PlanOptions, scheme: Scheme) -> PlanOptions:
    """The options of another scheme: the star's own are for no other."""
    cuts = options.cuts if scheme is Scheme.OFFLOAD else "all"
    tiles = options.tiles if scheme is Scheme.TILES else None
    if scheme is Scheme.STAR or options.scheme != Scheme.STAR:
        return replace(options, scheme=scheme, plan=None, cuts=cuts, tiles=tiles)
    return PlanOptions(
        scheme,
        master_computes=options.master_computes,
        wire=options.wire,
        pins=options.pins,
        keep_input_home=options.keep_input_home,
    )


def _terms(graph: LayerGraph, plan: Plan, topology: Topology) -> dict[str, float]:
    """The predicted seconds by the rate that decides them: of the slowest rank's kernels, or of the links."""
    prices = Prices(topology, graph.picture.batch, plan.wire)
    found: dict[str, float] = defaultdict(float)
    for layer, placement in zip(graph.layers, plan.placements, strict=True):
        edge_s = placement.predicted.get("edge_s", 0.0)
        found[_LINKS] += placement.predicted.get("total_s", 0.0) - edge_s
        if placement.work and isinstance(layer, Conv):
            slowest = max(placement.work, key=lambda work: prices.work_s(layer, work, graph.tensors))
            found[f"gamma rank {slowest.rank} {kernel_class(layer.spec)}"] += edge_s
    return found


def _noise_s(first: Mapping[str, float], second: Mapping[str, float], spreads: Mapping[str, float]) -> float:
    """What both plans owe to one rate changes with it in both: only the differences count."""
    links = max((spread for name, spread in spreads.items() if not name.startswith("gamma")), default=0.0)
    return math.hypot(
        *(
            (first.get(name, 0.0) - second.get(name, 0.0)) * (links if name == _LINKS else spreads.get(name, 0.0))
            for name in first.keys() | second.keys()
        )
    )


def moved(topology: Topology, name: str, factor: float) -> Topology:
    """The cluster with one rate ``factor`` times as slow; itself where it has no such rate."""
    if match := _GAMMA.fullmatch(name):
        rank, kind = int(match[1]), match[2]
        if rank not in topology.ranks:
            return topology
        device = topology.devices[rank]
        gamma = {**device.gamma_s_per_mac, kind: device.gamma(kind) * factor}
        dense = [device.gamma_s_per_mac[each] for each in DENSE if each in device.gamma_s_per_mac]
        # Shares follow the default rate, which calibration makes the mean of these.
        if kind in DENSE and dense and math.isclose(gamma["default"], statistics.geometric_mean(dense), rel_tol=1e-6):
            gamma["default"] *= factor ** (1 / len(dense))
        return topology.replace_device(rank, replace(device, gamma_s_per_mac=gamma))
    if match := _ALPHA.fullmatch(name):
        pairs = [(int(match[1]), int(match[2])), (int(match[2]), int(match[1]))]
        change = {pair: replace(link, latency_s=link.latency_s * factor) for pair, link in _links(topology, pairs)}
    elif match := _BETA.fullmatch(name):
        pairs = [(int(match[1]), int(match[2]))]
        change = {pair: replace(link, s_per_byte=link.s_per_byte * factor) for pair, link in _links(topology, pairs)}
    else:
        return topology
    return replace(topology, links={**topology.links, **change})


def _links(topology: Topology, pairs: Sequence[tuple[int, int]]) -> list[tuple[tuple[int, int], Link]]:
    return [(pair, topology.links[pair]) for pair in pairs if pair in topology.links]


def stability(
    graph: LayerGraph,
    topology: Topology,
    spreads: Mapping[str, float],
    options: PlanOptions = PlanOptions(),
    *,
    budget_s: float = BUDGET_S,
    progress: Callable[[str], None] = lambda text: None,
) -> Stability:
    """Plan again with the rates moved by their spread: all of them in DRAWS ways, then, if that changes the plan, one by
    one, those with the greatest spread first. Takes hardly more than ``budget_s``."""
    moving = {name: spread for name, spread in sorted(spreads.items(), key=lambda each: -each[1]) if spread >= LEAST_SPREAD}
    base = cuts(make_plan(graph, topology, options))

    def changed_layers(cluster: Topology) -> int:
        try:
            found = cuts(make_plan(graph, cluster, options))
        except PlannerError:
            return len(base)
        return sum(ours != theirs for ours, theirs in zip(base, found, strict=True))

    until = time.monotonic() + budget_s
    coin = random.Random(0)
    together = 0
    for number in range(DRAWS if moving else 0):
        if number and time.monotonic() > until:
            break
        progress(f"plans within the spreads: {number + 1} of {DRAWS}")
        cluster = topology
        for name, spread in moving.items():
            cluster = moved(cluster, name, (1 + spread) ** coin.choice((-1, 1)))
        together = max(together, changed_layers(cluster))
    changes: dict[str, int | None] = dict.fromkeys(spreads, 0)
    for name, spread in moving.items() if together else ():
        if time.monotonic() > until:
            changes[name] = None
            continue
        progress(f"plans within the spread of {name}")
        changes[name] = max(changed_layers(moved(topology, name, factor)) for factor in (1 + spread, 1 / (1 + spread)))
    return Stability(graph.name, sum(not layer.relabels for layer in graph.layers), together, changes)
