"""Prediction: the five terms of every layer of a star, priced from the programs that will run.

`fogconv.trigger` decides one layer at a time, and takes every shard to travel. A worker that holds a piece already, because
it made it or got it for the layer before, is not sent it again: the programs know.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from fogconv.cost import WIRE_BYTES
from fogconv.geometry import BYTES_PER_ELEMENT, ConvSpec
from fogconv.program import Add, Affine, Conv, Program, Recv, Send
from fogconv.speedup import Terms
from fogconv.topology import Link, Topology
from fogconv.trigger import Seconds, wire_s

MASTER = 0


def star_terms(programs: Sequence[Program], topology: Topology, seconds: Seconds | None = None) -> dict[int, Terms]:
    """Layer → its terms, for every layer of which a part travels. ``seconds`` prices convs instead of γ·MACs."""
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
                # The workers hold all of their input, and begin while the layer before is still on its way back.
                hidden = min(terms.edge_s, before.rx_s + before.join_s)
                terms = replace(terms, edge_s=terms.edge_s - hidden)
            found[index] = before = terms
    return found


class _Layer:
    """What the programs do for one layer. Elements are fp32-sized on the wire."""

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
        # Before its return is on the wire a worker cuts it out of its map, as the master does with what it sends.
        handed = max(
            (topology.devices[rank].copy_s(elements * BYTES_PER_ELEMENT) for rank, elements in self.origins.items()),
            default=0.0,
        )
        # Returns are taken in as they come: only the last one's joining is left when all are here.
        joined = max((elements for _, elements in self.returned), default=0.0) + 2 * self.finished
        return Terms(
            master.copy_s(cut * BYTES_PER_ELEMENT) + master.step_s * len(self.sent),
            wire_s(self.sent, tx),
            max((sum(price(rank, spec) for spec in specs) for rank, specs in self.convs.items()), default=0.0),
            wire_s(self.returned, rx) + handed,
            master.copy_s(joined * BYTES_PER_ELEMENT) + master.step_s,
        )


def _elements(step: Send | Recv, program: Program) -> float:
    return step.region.elements * program.batch * WIRE_BYTES[step.wire] / BYTES_PER_ELEMENT
