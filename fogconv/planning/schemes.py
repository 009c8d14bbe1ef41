"""The table of all schemes. A scheme is a function that makes a plan, and a line of help.

The command line lists these schemes, `fogconv.planning.planner.plan` plans with them, tests and benchmarks iterate over
them.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Self

from fogconv.errors import InputError
from fogconv.hardware.topology import Topology
from fogconv.ir.graph import LayerGraph
from fogconv.ir.plan import Plan
from fogconv.planning.limits.sought import Sought
from fogconv.planning.scheme_options import SchemeOptions
from fogconv.planning.search import search
from fogconv.planning.star import plan_star
from fogconv.planning.strategies.family import Scheme as Paths
from fogconv.planning.streams.lanes import fastest, pipeline, replicas

Planner = Callable[[LayerGraph, Topology, SchemeOptions], Plan]
"""Raises PlannerError when the weights fit into no rank's memory limit, InputError for options that the scheme does not
support."""


def _searched(paths: Paths) -> Planner:
    def planner(graph: LayerGraph, topology: Topology, options: SchemeOptions) -> Plan:
        allowed = options.allowed(graph, len(topology))
        sought = Sought(options.coding, options.allow_swap, allowed, options.goal, options.pixels, tiling=options.tiling)
        return search(graph, topology, paths, sought)

    return planner


def _cheapest(graph: LayerGraph, topology: Topology, options: SchemeOptions) -> Plan:
    """The cheapest plan of the schemes that support the options: with guards only the star does."""
    if options.goal.objective == "throughput":
        return fastest(graph, topology, options)
    planner = plan_star if options.protection else _searched("auto")
    return planner(graph, topology, options)


class Scheme(StrEnum):
    """``Scheme.ROWS.planner(graph, topology, options)`` makes a plan.

    ``help`` is its line for the command line. ``guarded``: it supports --verify, --redundancy and --patience.
    """

    help: str
    planner: Planner
    guarded: bool

    def __new__(cls, name: str, help: str, planner: Planner, guarded: bool = False) -> Self:
        member = str.__new__(cls, name)
        member._value_ = name
        member.help, member.planner, member.guarded = help, planner, guarded
        return member

    @classmethod
    def named(cls, name: str) -> Scheme:
        """The scheme of this name. Raises InputError for an unknown one."""
        for scheme in cls:
            if scheme == name:
                return scheme
        raise InputError(f"scheme {name!r} is not known; it is one of {', '.join(cls)}")

    AUTO = "auto", "the cheapest of all paths", _cheapest, True
    STAR = "star", "the paper's, layer by layer from the master and back", plan_star, True
    DEPTH = "depth", "by channels, and where maps are large by rows, so that the weights are dealt out", _searched("depth")
    ROWS = "rows", "by rows of the maps, with halos", _searched("rows")
    COLUMNS = "columns", "by columns of the maps, with halos", _searched("columns")
    TILES = "tiles", "by rows and columns of the maps at once, with halos", _searched("tiles")
    OFFLOAD = "offload", "whole layers on one rank each, such as the last ones on a faster device", _searched("offload")
    PIPELINE = "pipeline", "for streams: consecutive layers on one rank each, several frames in flight", pipeline
    REPLICAS = "replicas", "for streams: whole frames on each rank, the next one to the rank that is free", replicas
    LOCAL = "local", "the master alone", _searched("local")


STREAMS = (Scheme.PIPELINE, Scheme.REPLICAS)
"""The schemes for several frames in flight."""

ONE_FRAME = tuple(scheme for scheme in Scheme if scheme not in (Scheme.LOCAL, *STREAMS))
"""The schemes in which ranks share the work on one frame."""
