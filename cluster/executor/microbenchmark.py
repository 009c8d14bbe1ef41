"""Measure: seconds of single convs with this process's kernels, and the rate of a copy in memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fogconv.cluster.executor.interface import Build, nothing
from fogconv.cluster.protocol.codec import Frame
from fogconv.errors import ClusterError
from fogconv.ir import program as ir
from fogconv.ir.geometry import ConvSpec, Region
from fogconv.ir.program import weight_key


class NoMailbox:
    """For programs that neither send nor receive. ``proceed`` raises when their run is no longer wanted."""

    def __init__(self, proceed: Callable[[], None] = nothing) -> None:
        self.proceed = proceed

    def send(self, to: int, tag: int, payload: Frame) -> None:
        raise ClusterError(f"a lone program sends to rank {to}")

    def room(self, nbytes: int) -> memoryview | None:
        return None

    def receive(self, origin: int, tag: int) -> Frame:
        raise ClusterError(f"a lone program waits for rank {origin}")


def conv_program(spec: ConvSpec) -> tuple[ir.Program, dict[str, NDArray[np.float32]]]:
    """A program of this one conv, fused with its bias and a ReLU as nets have them, with seeded weights."""
    weight = np.random.default_rng(0).standard_normal(spec.weight_shape, np.float32)
    bias = np.zeros(spec.out_channels, np.float32)
    key, bias_key = weight_key(weight), weight_key(bias)
    source = Region.whole(spec.in_channels, spec.height, spec.width)
    target = Region.whole(spec.out_channels, spec.out_height, spec.out_width)
    conv = ir.Conv(0, spec, key, bias_key, "relu", 0, source, 1, target)
    buffers = (ir.Buffer("in", source, spec.padding), ir.Buffer("out", target))
    shapes: dict[str, tuple[int, ...]] = {key: spec.weight_shape, bias_key: bias.shape}
    return ir.Program(0, 1, spec.batch, ("conv",), buffers, (conv,), shapes), {key: weight, bias_key: bias}


LEAST_S = 0.1
"""A CPU quota can give 1 ms in 10: single runs are then far too fast or far too slow, so the measurement spans many
periods."""


LOOK_S = 0.2
"""Many short runs look so often whether they are still wanted."""


@dataclass(frozen=True, slots=True)
class ConvTimes:
    """Seconds of one conv: of the mean run, and of the fastest."""

    mean_s: float
    fastest_s: float


def conv_seconds(
    specs: Sequence[ConvSpec],
    build: Build,
    *,
    threads: int = 1,
    repeats: int = 3,
    least_s: float = LEAST_S,
    clock: Callable[[], float] = time.perf_counter,
    proceed: Callable[[], None] = nothing,
) -> tuple[float, ...]:
    """The mean of warm runs of each conv, back to back, in seconds: at least ``repeats`` of them, and for ``least_s``.

    The mean and not the median: under a quota, or with other work on the device, the mean is the rate of an inference.
    (``clock=time.thread_time`` counts one thread's own time instead, whatever else runs.) ``proceed`` is called before
    each conv and while one runs long, and may raise.
    """
    times = conv_times(specs, build, threads=threads, repeats=repeats, least_s=least_s, clock=clock, proceed=proceed)
    return tuple(each.mean_s for each in times)


def conv_times(
    specs: Sequence[ConvSpec],
    build: Build,
    *,
    threads: int = 1,
    repeats: int = 3,
    least_s: float = LEAST_S,
    clock: Callable[[], float] = time.perf_counter,
    proceed: Callable[[], None] = nothing,
) -> tuple[ConvTimes, ...]:
    """``conv_seconds``, with the fastest run of each conv: where that is much faster than the mean, something else ran."""
    found = []
    mailbox = NoMailbox(proceed)
    for spec in specs:
        proceed()
        program, weights = conv_program(spec)
        executable = build(program, weights, threads=threads, proceed=proceed)
        executable.run(mailbox)
        runs, elapsed, fastest, look, begin = 0, 0.0, float("inf"), LOOK_S, clock()
        while runs < repeats or elapsed < least_s:
            if elapsed > look:
                proceed()
                look = elapsed + LOOK_S
            executable.run(mailbox)
            runs += 1
            until_now = clock() - begin
            fastest, elapsed = min(fastest, until_now - elapsed), until_now
        found.append(ConvTimes(elapsed / runs, fastest))
    return tuple(found)


def copy_bytes_per_s(nbytes: int = 8 << 20, repeats: int = 5) -> float:
    """The rate of copying ``nbytes`` from one array to another (read and write count once)."""
    source, target = np.ones(nbytes, np.uint8), np.zeros(nbytes, np.uint8)
    np.copyto(target, source)
    best = float("inf")
    for _ in range(repeats):
        begin = time.perf_counter()
        np.copyto(target, source)
        best = min(best, time.perf_counter() - begin)
    return nbytes / best
