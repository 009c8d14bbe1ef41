"""Cuts: what an inference takes whose first layers the master computes, and the rest one worker, for each place to cut.

    cut after   master                    worker
    (input)                               all layers
    features.3  features.0 … features.3   the others
    (output)    all layers

Each plan is predicted by simulation, as every plan is; the link's rate is one of several.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from fogconv.errors import InputError
from fogconv.hardware.topology import Link, Topology
from fogconv.ir.graph import LayerGraph
from fogconv.ir.layers import Host
from fogconv.ir.layout import MASTER
from fogconv.ir.plan import Placement, Plan, at_home
from fogconv.ir.program import Program
from fogconv.ir.shard import Work
from fogconv.ir.steps import Pixels, Send, Wire
from fogconv.lowering.lower import outline
from fogconv.planning.limits.cuts import slices
from fogconv.planning.memory import over_memory, with_swaps
from fogconv.simulation.prediction import predicted

MOST_COLOURS = 3
"""An input of so many channels is taken to be a picture of 8 bits, which is sent as bytes."""
WORKER = 1
"""The rank that computes what the master does not."""


@dataclass(frozen=True, slots=True)
class Cut:
    """``after``: the last layer that the master computes, empty for none. ``layers``: how many it computes. ``sent_bytes``:
    what it sends in an inference. ``fits``: whether both ranks have the memory for their layers."""

    after: str
    layers: int
    sent_bytes: float
    plan: Plan
    fits: bool = True


@dataclass(frozen=True, slots=True)
class Curve:
    """The seconds and joules of every cut at one rate of the link; None where a cut does not fit, or no power is known."""

    bandwidth_bytes_per_s: float
    seconds: tuple[float | None, ...]
    joules: tuple[float | None, ...]

    @property
    def fastest(self) -> int | None:
        """The number of the fastest cut; of equal ones the last, which leaves most at home."""
        return _least(self.seconds)

    @property
    def frugalest(self) -> int | None:
        """The number of the cut of least energy."""
        return _least(self.joules)


def _least(values: Sequence[float | None]) -> int | None:
    known = [(value, -number) for number, value in enumerate(values) if value is not None]
    return -min(known)[1] if known else None


def cuts(
    graph: LayerGraph, topology: Topology, where: str = "all", wire: Wire = "fp32", *, allow_swap: bool = False
) -> tuple[Cut, ...]:
    """The cuts of a graph: after every layer that computes, or ("shrinking") after its slices. Raises InputError for a
    graph that has no place to cut."""
    steps = [(index,) for index in range(len(graph.layers))] if where == "all" else list(slices(graph))
    groups = _whole(graph, steps)
    if len(groups) < 2:
        places = "layer" if where == "all" else "slice"
        raise InputError(f"{graph.name} has one {places}, so there is no place to cut it")
    found = []
    for count in range(len(groups) + 1):
        home = {index for group in groups[:count] for index in group}
        plan = _plan(graph, home, wire, len(topology))
        fitted = with_swaps(graph, plan, topology) if allow_swap else plan
        fits = over_memory(graph, fitted, topology) is None
        after = graph.layers[groups[count - 1][-1]].name if count else ""
        found.append(Cut(after, len(home), _sent(outline(graph, fitted)), fitted, fits))
    return tuple(found)


def _whole(graph: LayerGraph, groups: Sequence[Sequence[int]]) -> list[tuple[int, ...]]:
    """The groups, where one that computes nothing (concatenations) goes with the one before."""
    found: list[tuple[int, ...]] = []
    for group in groups:
        if found and all(graph.layers[index].relabels for index in group):
            found[-1] = (*found[-1], *group)
        else:
            found.append(tuple(group))
    return found


def _plan(graph: LayerGraph, home: set[int], wire: Wire, ranks: int) -> Plan:
    placements = []
    for index, layer in enumerate(graph.layers):
        if index in home or layer.relabels or isinstance(layer, Host):
            placements.append(at_home(graph, layer))
        else:
            work = Work(WORKER, graph.tensors[layer.target].region)
            placements.append(Placement("offload", (work,), split=f"rank:{WORKER}"))
    channels = graph.picture.channels
    pixels = Pixels((0.0,) * channels, (1.0,) * channels) if channels <= MOST_COLOURS else None
    return Plan(graph.name, ranks, "offload", tuple(placements), wire, pixels=pixels)


def _sent(programs: Sequence[Program]) -> float:
    return sum(
        step.elements * programs[MASTER].batch * step.element_bytes
        for step in programs[MASTER].steps
        if isinstance(step, Send)
    )


def curve(graph: LayerGraph, topology: Topology, cuts: Sequence[Cut], bandwidth_bytes_per_s: float) -> Curve:
    """Every cut at one rate of all links."""
    there = at_bandwidth(topology, bandwidth_bytes_per_s)
    found = [predicted(graph, cut.plan, there) if cut.fits else None for cut in cuts]
    return Curve(
        bandwidth_bytes_per_s,
        tuple(None if plan is None else plan.predicted_s for plan in found),
        tuple(None if plan is None else plan.predicted_j for plan in found),
    )


def at_bandwidth(topology: Topology, bytes_per_s: float) -> Topology:
    """The cluster with links of this rate, whose ports take the same power as before."""

    def changed(link: Link) -> Link:
        watts = link.joules_per_byte / link.s_per_byte if link.s_per_byte else 0.0
        return replace(link, s_per_byte=1 / bytes_per_s, joules_per_byte=watts / bytes_per_s)

    default = topology.default_link
    return replace(
        topology,
        links={pair: changed(link) for pair, link in topology.links.items()},
        default_link=None if default is None else changed(default),
    )


def cuts_json(graph: LayerGraph, cuts: Sequence[Cut], curves: Sequence[Curve]) -> dict[str, Any]:
    """``best_s`` and ``best_j`` are numbers of cuts."""
    return {
        "model": graph.name,
        "cuts": [{"after": cut.after, "layers": cut.layers, "sent_bytes": cut.sent_bytes, "fits": cut.fits} for cut in cuts],
        "curves": [
            {
                "bandwidth_bytes_per_s": each.bandwidth_bytes_per_s,
                "seconds": list(each.seconds),
                "joules": list(each.joules),
                "best_s": each.fastest,
                "best_j": each.frugalest,
            }
            for each in curves
        ],
    }
