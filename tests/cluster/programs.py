"""Programs made by hand, and an executable without kernels: what the cluster's own tests run."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fogconv.cluster.executor.interface import nothing
from fogconv.cluster.executor.mailbox import Mailbox
from fogconv.ir import steps as ir
from fogconv.ir.arrays import weight_key
from fogconv.ir.geometry import Region
from fogconv.ir.program import Program

PIECE = Region.whole(16, 1, 1)


class FakeExecutable:
    """Knows Input, Output, Send, Recv, Copy; one float32 vector per buffer. A weight is added to every Copy."""

    def __init__(
        self,
        program: Program,
        weights: Mapping[str, NDArray[np.float32]],
        *,
        threads: int = 1,
        proceed: Callable[[], None] = nothing,
    ) -> None:
        self.program = program
        self.memory_bytes = sum(weight.nbytes for weight in weights.values())
        self.times: NDArray[np.int64] = np.zeros((len(program.steps), 2), np.int64)
        self._bias = [weights[key] for key in program.weights]
        self._buffers = [np.zeros((program.batch, *b.region.shape), np.float32) for b in program.buffers]

    def run(
        self, mailbox: Mailbox, inputs: Sequence[NDArray[Any]] = (), meanwhile: Callable[[], None] = nothing
    ) -> list[NDArray[Any]]:
        outputs = []
        for number, step in enumerate(self.program.steps):
            begin = time.perf_counter_ns()
            match step:
                case ir.Input():
                    self._buffers[step.target][:] = inputs[step.index]
                case ir.Send():
                    # A copy, because the same buffer may be written again in this run.
                    mailbox.send(step.to, step.tag, self._buffers[step.source].copy().reshape(-1).view(np.uint8).data)
                case ir.Recv():
                    values = np.frombuffer(mailbox.receive(step.origin, step.tag), np.float32)
                    target = self._buffers[step.target]
                    target[:] = values.reshape(target.shape) + (target if step.accumulate else 0)
                case ir.Copy():
                    self._buffers[step.target][:] = self._buffers[step.source] + sum(w.sum() for w in self._bias)
                case ir.Output():
                    outputs.append(self._buffers[step.source].copy())
                case _:
                    raise AssertionError(f"a fake knows no {step}")
            self.times[number] = begin, time.perf_counter_ns()
        return outputs


def fake_local(program: Program, weights: Mapping[str, Any], host: Any) -> FakeExecutable:
    return FakeExecutable(program, weights)


def star(workers: Sequence[int], region: Region = PIECE, *, ranks: int = 0) -> tuple[list[Program], dict[str, Any]]:
    """The master sends its input to each worker, each adds its own weight (its rank), the master sums what comes back."""
    ranks = ranks or max(workers) + 1
    buffers = (ir.Buffer("x", region), ir.Buffer("y", region))
    weights = {}
    master: list[ir.AnyStep] = [ir.Input(0, 0, 0, region)]
    programs = []
    for rank in workers:
        weight = np.full((4,), rank / 4, np.float32)
        weights[weight_key(weight)] = weight
        master.append(ir.Send(0, 0, region, rank, rank))
        steps = (ir.Recv(0, 0, region, 0, rank), ir.Copy(0, 0, region, 1), ir.Send(0, 1, region, 0, 100 + rank))
        programs.append(Program(rank, ranks, 1, ("layer",), buffers, steps, {weight_key(weight): (4,)}))
    for place, rank in enumerate(workers):
        master.append(ir.Recv(0, 1, region, rank, 100 + rank, accumulate=place > 0))
    master.append(ir.Output(0, 0, 1, region))
    return [Program(0, ranks, 1, ("layer",), buffers, tuple(master), {}), *programs], weights


def ring(workers: Sequence[int], rounds: int = 1, region: Region = PIECE) -> tuple[list[Program], dict[str, Any]]:
    """The input goes from the master to the first worker, on to the next …, ``rounds`` times, and back to the master."""
    stops = [0, *(list(workers) * rounds), 0]
    buffers = (ir.Buffer("x", region),)
    steps: dict[int, list[ir.AnyStep]] = {rank: [] for rank in (0, *workers)}
    steps[0].append(ir.Input(0, 0, 0, region))
    for tag, (origin, to) in enumerate(pairwise(stops), start=1):
        if origin == to:
            continue
        steps[origin].append(ir.Send(tag - 1, 0, region, to, tag))
        steps[to].append(ir.Recv(tag - 1, 0, region, origin, tag))
    steps[0].append(ir.Output(0, 0, 0, region))
    layers = tuple(f"layer {number}" for number in range(len(stops)))
    ranks = max(workers) + 1
    return [Program(rank, ranks, 1, layers, buffers, tuple(part), {}) for rank, part in steps.items()], {}
