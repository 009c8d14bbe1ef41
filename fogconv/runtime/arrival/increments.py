"""Increments: the order in which weights are sent, so that each part gains the most per byte (IONN, Jeong et al. 2018).

A weight that a worker lacks has a price. At a high price the cheapest path is all on the master; as the price falls, paths
come up that give workers the layers which gain more per weight than it. Each such path is an increment: its new weights
are sent, and from then on cost nothing. The last one is the plan without a price.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from fogconv.errors import InputError
from fogconv.hardware.topology import Topology
from fogconv.ir.graph import LayerGraph
from fogconv.ir.layers import Conv
from fogconv.ir.layout import MASTER
from fogconv.ir.plan import Plan
from fogconv.planning.limits.sought import Sought, Unsent
from fogconv.planning.plan_options import PlanOptions
from fogconv.planning.schemes import Scheme
from fogconv.planning.search import search

FACTOR = 3.0
"""From one price to the next."""
MOST_PRICES = 24
"""From an inference for the weights of the smallest layer down to a ten-billionth of that."""


@dataclass(frozen=True, slots=True)
class Increment:
    """A plan, and the layers whose weights the workers need for it and lack until then."""

    plan: Plan
    layers: frozenset[int]


def increments(graph: LayerGraph, topology: Topology, options: PlanOptions) -> Iterator[Increment]:
    """The plans in the order in which their weights are sent, the first one the master's alone, each as soon as it is found.
    Each is faster than those before. Raises InputError for another scheme than offload, PlannerError where the master has
    no memory for all weights."""
    check_early(options)
    fastest = search(graph, topology, "local", _sought(graph, topology, options, None))
    yield Increment(fastest, frozenset())
    best = search(graph, topology, "offload", _sought(graph, topology, options, None))
    landed: frozenset[int] = frozenset()
    price_s = _seconds(fastest) / _fewest_weights(graph)
    for _ in range(MOST_PRICES):
        if away(graph, best) <= landed:
            break
        plan = search(graph, topology, "offload", _sought(graph, topology, options, Unsent(price_s, landed)))
        new = away(graph, plan) - landed
        if new and _seconds(plan) < _seconds(fastest):
            yield Increment(plan, new)
            fastest = plan
            landed |= new
        price_s /= FACTOR
    if _seconds(best) < _seconds(fastest) and not best.same_work(fastest):
        yield Increment(best, away(graph, best) - landed)


def check_early(options: PlanOptions) -> None:
    """Raises InputError where an inference can't begin before all weights are there."""
    if options.scheme != Scheme.OFFLOAD or options.plan is not None:
        raise InputError("--early is for whole layers: --scheme offload, without a --plan")
    if options.goal.objective != "latency" or options.allow_swap:
        raise InputError("--early looks for the fastest plan in memory; leave --objective, --deadline and --allow-swap out")


def away(graph: LayerGraph, plan: Plan) -> frozenset[int]:
    """The layers with weights that workers compute."""
    return frozenset(
        number
        for number, (layer, placement) in enumerate(zip(graph.layers, plan.placements, strict=True))
        if any(work.rank != MASTER for work in placement.work)
        and any(getattr(layer, name) is not None for name in layer.weight_keys)
    )


def _fewest_weights(graph: LayerGraph) -> int:
    """Of the convs'; 1 where there is none."""
    return min((layer.spec.weight_elements for layer in graph.layers if isinstance(layer, Conv)), default=1)


def _sought(graph: LayerGraph, topology: Topology, options: PlanOptions, unsent: Unsent | None) -> Sought:
    allowed = options.allowed(graph, len(topology))
    sought = Sought(options.coding, False, allowed, options.goal, options.pixels)
    return replace(sought, unsent=unsent)


def _seconds(plan: Plan) -> float:
    return plan.predicted_s or 0.0
