"""The planner: it turns a model, a cluster and PlanOptions into a Plan."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec

from fogconv.errors import PlannerError
from fogconv.hardware.topology import Topology
from fogconv.ir.graph import LayerGraph
from fogconv.ir.layout import MASTER
from fogconv.ir.plan import Plan
from fogconv.lowering.lower import outline
from fogconv.planning.memory import over_memory, with_swaps
from fogconv.planning.plan_options import PlanOptions
from fogconv.planning.scheme_options import LOSSLESS
from fogconv.planning.schemes import Scheme
from fogconv.simulation.prediction import predicted, streamed

_COMPRESSORS = {"lz4": "lz4", "zstd": "zstandard"}
"""Wire → the library that it needs."""


def plan(graph: LayerGraph, topology: Topology, options: PlanOptions = PlanOptions()) -> Plan:
    """The given plan, where it is for this number of ranks, or else the scheme's; with its prediction for this cluster.

    Raises PlannerError when a part fits into no rank's memory limit, InputError for options that the scheme does not
    support.
    """
    kept = options.plan
    given = kept is not None and kept.ranks == len(topology)
    ranks = list(topology.ranks)
    allowed = options.allowed(graph, len(topology))
    while True:
        if kept is not None and given:
            found = kept
            if options.limited:
                allowed.check(graph, kept, outline(graph, kept))
        elif len(ranks) == len(topology):
            found = Scheme.named(options.scheme).planner(graph, topology, settled(options, graph, topology))
        else:
            part = topology.subset(ranks)
            chosen = settled(options.among(ranks), graph, part)
            found = Scheme.named(options.scheme).planner(graph, part, chosen)
            found = found.among(ranks, len(topology))
        fitted = with_swaps(graph, found, topology) if options.allow_swap else found
        over = over_memory(graph, fitted, topology)
        if over is None:
            whole = _predicted(graph, fitted, topology) if given or fitted is not found else found
            return whole if given else _as_it_is(graph, whole, topology, options)
        # The search does without a rank by itself; the star's shares are fixed, and a guarded one's code needs its ranks.
        if given or over.rank == MASTER or options.protection:
            raise PlannerError(over.sentence)
        if over.rank in allowed.ranks:
            raise PlannerError(f"{over.sentence}; {allowed.because} leaves no other rank for some of it")
        ranks.remove(over.rank)


def _predicted(graph: LayerGraph, plan: Plan, topology: Topology) -> Plan:
    whole = predicted(graph, plan, topology)
    return whole if plan.frames_per_s is None else streamed(graph, whole, topology)


def _as_it_is(graph: LayerGraph, plan: Plan, topology: Topology, options: PlanOptions) -> Plan:
    """The plan with its picture as it is instead of as bytes, where that is better: coding takes time, too."""
    if plan.pixels is None:
        return plan
    plain = predicted(graph, replace(plan, pixels=None), topology)
    return plain if options.goal.measure(plain) <= options.goal.measure(plan) else plan


def settled(options: PlanOptions, graph: LayerGraph, topology: Topology) -> PlanOptions:
    """With a "lossless" wire replaced by the one whose plan is the fastest on these links; on fast links that is to send
    activations uncoded."""
    if options.wire != LOSSLESS:
        return options
    installed = [wire for wire, module in _COMPRESSORS.items() if find_spec(module) is not None]

    def seconds(wire: str) -> float:
        return plan(graph, topology, replace(options, wire=wire, plan=None)).predicted_s or 0.0

    return replace(options, wire=min(("fp32", "zeros", *installed), key=seconds))
