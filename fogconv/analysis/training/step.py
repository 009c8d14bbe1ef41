"""Step: the time of a training step's convolutions, layer by layer: forward, both gradients, transfers.

A layer that is distributed runs the programs of `fogconv.nn.DistributedConv2d` (`fogconv.lowering.training`), here simulated
message by message: the weights, which the optimiser changed, and the input go out, the output comes back; then the output's
gradient goes out, and both gradients come back. Layers run one after the other. Between them torch does on the master what
is no conv, which is not predicted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

from fogconv.errors import InputError
from fogconv.hardware.topology import Topology
from fogconv.hardware.training_costs import pass_s
from fogconv.ir import steps
from fogconv.ir.geometry import BYTES_PER_ELEMENT, ConvSpec, Region
from fogconv.ir.graph import LayerGraph
from fogconv.ir.layers import Conv
from fogconv.ir.layout import MASTER
from fogconv.ir.program import Program
from fogconv.ir.shard import Shard
from fogconv.lowering.training import Pass, pass_programs
from fogconv.planning.scheme_options import SchemeOptions
from fogconv.simulation.simulator import Disturbance, Timeline, simulate
from fogconv.speedup.trigger import decide

TERMS = ("forward_s", "input_s", "weight_s", "transfers_s")


@dataclass(frozen=True, slots=True)
class Medium:
    """What is not in a topology: shared access points by rank, their rate, and what disturbs devices."""

    access_points: Mapping[int, int] | None = None
    bytes_per_s: float | None = None
    disturbance: Disturbance = Disturbance()


@dataclass(frozen=True, slots=True)
class LayerStep:
    """One conv in a step, in seconds: computing on the rank that takes longest, and in ``transfers_s`` all other time.

    ``split`` is None for a layer that torch computes on the master, ``reason`` says why. ``input_s`` is 0 for the
    first conv: the picture needs no gradient.
    """

    name: str
    spec: ConvSpec
    split: str | None
    ranks: tuple[int, ...]
    reason: str
    forward_s: float
    input_s: float
    weight_s: float
    transfers_s: float

    @property
    def total_s(self) -> float:
        return self.forward_s + self.input_s + self.weight_s + self.transfers_s

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "total_s": self.total_s}


@dataclass(frozen=True, slots=True)
class TrainingStep:
    """All convs of a step, in their order."""

    batch: int
    layers: tuple[LayerStep, ...]

    @property
    def total(self) -> LayerStep:
        """All layers as one."""
        first = self.layers[0]
        sums = (sum(getattr(layer, term) for layer in self.layers) for term in TERMS)
        return LayerStep("all", first.spec, None, (), "", *sums)

    def as_json(self) -> dict[str, Any]:
        total = self.total.as_json()
        terms = {term: total[term] for term in ("forward_s", "input_s", "weight_s", "transfers_s", "total_s")}
        return {
            "batch": self.batch,
            "predicted_s": total["total_s"],
            "all": terms,
            "layers": [x.as_json() for x in self.layers],
        }


def training_step(
    graph: LayerGraph, topology: Topology, options: SchemeOptions, batch: int, medium: Medium = Medium()
) -> TrainingStep:
    """The convs of a graph as `fogconv.nn.distribute` trains them; linear layers stay in torch, as there.

    Raises InputError for a graph without convs, and for options that fit no layer, DependencyError without simpy.
    """
    layers = []
    for layer in graph.layers:
        if isinstance(layer, Conv) and not layer.linear:
            spec = replace(layer.spec, batch=batch)
            layers.append(layer_step(layer.name, spec, topology, options, layer.source not in graph.given, medium))
    if not layers:
        raise InputError(f"{graph.name} has no convs to train on a cluster")
    return TrainingStep(batch, tuple(layers))


def layer_step(
    name: str, spec: ConvSpec, topology: Topology, options: SchemeOptions, grad_x: bool = True, medium: Medium = Medium()
) -> LayerStep:
    """One conv, distributed where the trigger says so. ``grad_x``: whether its input's gradient is needed."""
    decision = decide(
        spec,
        topology,
        trigger=options.trigger,
        threshold=options.threshold,
        master_computes=options.master_computes,
        even=options.even,
        parts=options.parts,
        split=options.cut,
    )
    if decision.distribute and decision.shards:
        ranks = tuple(shard.rank for shard in decision.shards)
        times = distributed_s(spec, decision.shards, topology, grad_x=grad_x, medium=medium)
        return LayerStep(name, spec, str(decision.split), ranks, decision.reason, *times)
    home_s = topology.devices[MASTER].conv_s(spec)  # each gradient takes as many MACs as the forward pass
    return LayerStep(name, spec, None, (MASTER,), decision.reason, home_s, home_s if grad_x else 0.0, home_s, 0.0)


def distributed_s(
    spec: ConvSpec, shards: Sequence[Shard], topology: Topology, *, grad_x: bool = True, medium: Medium = Medium()
) -> tuple[float, float, float, float]:
    """(forward, input gradient, weight gradient, transfers): seconds of one conv's step over these shards."""
    passes = (Pass(False, ship=True, keep=True), Pass(True, ship=False, send_x=False, grad_x=grad_x, grad_w=True))
    found: list[float] = []
    latency_s = 0.0
    for run in passes:
        programs = _as_messages(pass_programs(spec, shards, run, ranks=len(topology), name="layer"))
        timeline = simulate(
            programs,
            topology,
            disturbance=medium.disturbance,
            access_points=medium.access_points,
            access_point_bytes_per_s=medium.bytes_per_s,
            array_s=partial(_array_s, topology, shards, run),
            keep_events=False,
        )
        messages = 2 * (len(programs) - 1)  # a message starts each worker, and one ends its part
        latency_s += timeline.latencies_s[0] + messages * topology.devices[MASTER].message_s
        found += _computing_s(programs, timeline, *(GRADIENTS if run.backward else (steps.ConvForward,)))
    forward_s, input_s, weight_s = found
    return forward_s, input_s, weight_s, max(0.0, latency_s - sum(found))


GRADIENTS = (steps.ConvGradInput, steps.ConvGradWeight)


def _computing_s(programs: Sequence[Program], timeline: Timeline, *kinds: type) -> tuple[float, ...]:
    """Seconds in the steps of each kind on the rank that computes longest."""
    per_rank = []
    for program in programs:
        spent = dict.fromkeys(kinds, 0.0)
        for step, (begin, end) in zip(program.steps, timeline.times[0][program.rank], strict=True):
            if type(step) in spent:
                spent[type(step)] += float(end - begin) * 1e-9
        per_rank.append(tuple(spent.values()))
    return max(per_rank, key=sum)


WEIGHT_COPIES = 2
"""The master keeps a copy of the weights that it sends, and cuts them."""


def _array_s(topology: Topology, shards: Sequence[Shard], run: Pass, rank: int, step: steps.ArrayStep) -> float:
    device = topology.devices[rank]
    match step:
        case steps.ConvForward():
            return pass_s(device, "forward", step.spec)
        case steps.ConvGradInput():
            return pass_s(device, "input", step.spec)
        case steps.ConvGradWeight():
            return pass_s(device, "weight", step.spec)
        case steps.ArrayInput() if run.ship and step.array.startswith("w"):
            shard = shards[int(step.array[1:])]
            return device.copy_s(WEIGHT_COPIES * shard.spec.weight_elements * BYTES_PER_ELEMENT)
        case _:
            return 0.0


def _as_messages(programs: Sequence[Program]) -> list[Program]:
    """The programs with their arrays' messages as the simulator takes messages: of so many elements."""
    sizes = {
        (step.origin, program.rank, step.tag): math.prod(step.shape)
        for program in programs
        for step in program.steps
        if isinstance(step, steps.ArrayRecv)
    }

    def message(program: Program, step: steps.AnyStep) -> steps.AnyStep:
        match step:
            case steps.ArraySend():
                region = Region.whole(sizes[program.rank, step.to, step.tag], 1, 1)
                return steps.Send(0, 0, region, step.to, step.tag)
            case steps.ArrayRecv():
                return steps.Recv(0, 0, Region.whole(math.prod(step.shape), 1, 1), step.origin, step.tag)
            case _:
                return step

    return [Program(p.rank, p.ranks, 1, p.layers, (), tuple(message(p, step) for step in p.steps), {}) for p in programs]
