"""Prediction: the five terms of every layer of a star, from the programs that will run.

`fogconv.speedup.trigger` decides one layer at a time, and assumes that every shard is sent. A worker that already holds a
piece, because it computed it or received it for the layer before, does not receive it again; the programs take that into
account.

star_terms        the paper's formula, layer by layer: quick, and right where the terms follow one another
simulated_terms   the programs simulated, and the terms read from the timeline as a run's are: layers overlap, returns queue,
                  and messages compete with the program for the processor, which on a slow device is most of their cost
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from fogconv.analysis.layer_report import STAR_TERMS, layer_reports
from fogconv.analysis.simulation.simulator import Disturbance, simulate
from fogconv.hardware.topology import Link, Topology
from fogconv.ir.geometry import BYTES_PER_ELEMENT, ConvSpec
from fogconv.ir.graph import LayerGraph
from fogconv.ir.layout import MASTER
from fogconv.ir.plan import Plan
from fogconv.ir.program import Add, Affine, Conv, Program, Recv, Send
from fogconv.planning.cost import WIRE_BYTES
from fogconv.speedup.model import Terms
from fogconv.speedup.trigger import Seconds, wire_s

SEEDS, IN_A_ROW = 8, 3
"""The number of simulations, and of inferences back to back in each (the first is left out): a device's position in its
quota's period differs from inference to inference."""


def star_terms(programs: Sequence[Program], topology: Topology, seconds: Seconds | None = None) -> dict[int, Terms]:
    """Layer → its terms, for every layer of which a part is sent. ``seconds`` predicts convs instead of γ·MACs."""
    price = seconds or (lambda rank, spec: topology.devices[rank].conv_s(spec))
    layers: dict[int, _Layer] = defaultdict(_Layer)
    for program in programs:
        for step in program.steps:
            layer = layers[step.layer]
            match step:
                case Send() if program.rank == MASTER:
                    layer.sent.append((topology.link(MASTER, step.to), _elements(step, program)))
                case Recv() if program.rank == MASTER:
                    layer.returned.append((topology.link(step.origin, MASTER), _elements(step, program)))
                    layer.origins[step.origin] += _elements(step, program)
                case Conv():
                    layer.convs[program.rank].append(step.spec)
                case Add() | Affine() if program.rank == MASTER:
                    layer.finished += step.target_region.elements * program.batch
    found: dict[int, Terms] = {}
    before: Terms | None = None
    for index in sorted(layers):
        if layers[index].sent or layers[index].returned:
            terms = layers[index].terms(topology, price)
            if before is not None and not layers[index].sent:
                # The workers hold all of their input, and start while the previous layer's result is still being
                # returned.
                hidden = min(terms.edge_s, before.rx_s + before.join_s)
                terms = replace(terms, edge_s=terms.edge_s - hidden)
            found[index] = before = terms
    return found


def simulated_terms(
    graph: LayerGraph, plan: Plan, programs: Sequence[Program], topology: Topology, seconds: Seconds | None = None
) -> dict[int, Terms]:
    """Layer → its terms, on average over inferences back to back. ``seconds``: a conv's time in the long run.

    Raises DependencyError without simpy.
    """
    bursts = any(device.share < 1 for device in topology.devices)
    sums: dict[int, list[float]] = defaultdict(lambda: [0.0] * 5)
    runs = 0
    for seed in range(SEEDS if bursts else 1):
        inferences = IN_A_ROW if bursts else 1
        timeline = simulate(
            programs,
            topology,
            inferences=inferences,
            disturbance=Disturbance(seed=seed),
            seconds=seconds,
            keep_events=False,
        )
        for times in timeline.times[1 if bursts else 0 :]:
            runs += 1
            for index, report in enumerate(layer_reports(graph, plan, programs, times, convs_only=False)):
                for place, term in enumerate(STAR_TERMS[:-1]):
                    sums[index][place] += report.measured[term] or 0.0
    return {index: Terms(*(value / runs for value in values)) for index, values in sums.items()}


class _Layer:
    """The programs' work for one layer. Elements are fp32-sized on the wire."""

    def __init__(self) -> None:
        self.sent: list[tuple[Link, float]] = []
        self.returned: list[tuple[Link, float]] = []
        self.origins: dict[int, float] = defaultdict(float)
        self.convs: dict[int, list[ConvSpec]] = defaultdict(list)
        self.finished = 0

    def terms(self, topology: Topology, price: Seconds) -> Terms:
        master = topology.devices[MASTER]
        tx, rx = topology.card(MASTER)
        cut = sum(elements for _, elements in self.sent)
        # Before it returns a piece, a worker cuts it out of its map, as the master does with the pieces that it sends.
        handed = max(
            (topology.devices[rank].copy_s(elements * BYTES_PER_ELEMENT) for rank, elements in self.origins.items()),
            default=0.0,
        )
        # Returns are joined as they arrive: only the last one remains to be joined when all have arrived.
        joined = max((elements for _, elements in self.returned), default=0.0) + 2 * self.finished
        return Terms(
            master.copy_s(cut * BYTES_PER_ELEMENT) + master.step_s * len(self.sent),
            wire_s(self.sent, tx),
            topology.together_s({rank: sum(price(rank, spec) for spec in specs) for rank, specs in self.convs.items()}),
            wire_s(self.returned, rx) + handed,
            master.copy_s(joined * BYTES_PER_ELEMENT) + master.step_s,
        )


def _elements(step: Send | Recv, program: Program) -> float:
    return step.elements * program.batch * WIRE_BYTES[step.wire] / BYTES_PER_ELEMENT
