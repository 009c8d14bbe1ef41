"""The planner: it turns a model, a cluster and PlanOptions into a Plan."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec

from fogconv.hardware.topology import Topology
from fogconv.ir.graph import LayerGraph
from fogconv.ir.plan import Plan
from fogconv.planning.plan_options import PlanOptions
from fogconv.planning.scheme_options import LOSSLESS
from fogconv.planning.schemes import Scheme

_COMPRESSORS = {"lz4": "lz4", "zstd": "zstandard"}
"""Wire → the library that it needs."""


def plan(graph: LayerGraph, topology: Topology, options: PlanOptions = PlanOptions()) -> Plan:
    """The given plan, where it is for this number of ranks, or else the scheme's.

    Raises PlannerError when the weights fit into no rank's memory limit, InputError for options that the scheme does not
    support.
    """
    if options.plan is not None and options.plan.ranks == len(topology):
        return options.plan
    return Scheme.named(options.scheme).planner(graph, topology, settled(options, graph, topology))


def settled(options: PlanOptions, graph: LayerGraph, topology: Topology) -> PlanOptions:
    """With a "lossless" wire replaced by the one whose plan is the fastest on these links; on fast links that is to send
    activations uncoded."""
    if options.wire != LOSSLESS:
        return options
    installed = [wire for wire, module in _COMPRESSORS.items() if find_spec(module) is not None]

    def seconds(wire: str) -> float:
        return plan(graph, topology, replace(options, wire=wire, plan=None)).predicted_s or 0.0

    return replace(options, wire=min(("fp32", "zeros", *installed), key=seconds))
