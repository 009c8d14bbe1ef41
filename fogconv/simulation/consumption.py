"""Consumption: the joules of one inference, counted from the programs and from a simulation of them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

from fogconv.hardware.energy import joules, without_energy
from fogconv.hardware.topology import Topology
from fogconv.ir.program import Program
from fogconv.ir.steps import Conv, Send
from fogconv.simulation.simulator import Timeline


def joules_per_inference(programs: Sequence[Program], topology: Topology, timeline: Timeline) -> float | None:
    """All devices of the topology count for as long as an inference takes, those without work too; None where the power of
    one is not known."""
    if without_energy(topology):
        return None
    inferences = len(timeline.latencies_s)
    macs = [0.0] * len(topology)
    sent: dict[tuple[int, int], float] = defaultdict(float)
    messages: Counter[tuple[int, int]] = Counter()
    for program in programs:
        for step in program.steps:
            if isinstance(step, Conv):
                macs[program.rank] += step.spec.macs
            elif isinstance(step, Send):
                pair = program.rank, step.to
                sent[pair] += step.elements * program.batch * step.element_bytes
                messages[pair] += 1
    return joules(
        topology,
        latency_s=timeline.total_s / inferences,
        busy_s=[busy / inferences for busy in timeline.busy_s],
        macs=macs,
        sent_bytes=sent,
        messages=messages,
    )
