"""Measure: seconds of single steps with this process's kernels, and the rate of a copy in memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fogconv.cluster.executor.interface import Build, Touches, nothing
from fogconv.cluster.executor.mailbox import Messages
from fogconv.cluster.protocol.codec import Frame
from fogconv.errors import ClusterError
from fogconv.hardware.latency.samples import IDLE, DeviceLoad
from fogconv.ir import steps as ir
from fogconv.ir.arrays import weight_key
from fogconv.ir.geometry import ConvSpec, MapSpec, PoolSpec, Region, StepSpec, Taps
from fogconv.ir.memory.algorithm import is_depthwise
from fogconv.ir.precision.elements import HALVES, weight_type
from fogconv.ir.precision.halves import rounded
from fogconv.ir.precision.scale import FP32, Precision
from fogconv.ir.program import Program


class NoMailbox:
    """For programs that neither send nor receive. ``proceed`` raises when their run is no longer wanted."""

    def __init__(self, proceed: Callable[[], None] = nothing) -> None:
        self.proceed = proceed

    def send(self, to: int, tag: int, payload: Frame) -> None:
        raise ClusterError(f"a lone program sends to rank {to}")

    def open(self, messages: Messages) -> None: ...

    def room(self, nbytes: int) -> memoryview | None:
        return None

    def receive(self, origin: int, tag: int) -> Frame:
        raise ClusterError(f"a lone program waits for rank {origin}")


def conv_program(spec: ConvSpec) -> tuple[Program, dict[str, NDArray[Any]]]:
    """A program of this one conv, fused with its bias and a ReLU as nets have them, with seeded weights; from bytes to bytes
    where it is one of 8-bit maps."""
    if spec.element == "uint8":
        return _conv_of_bytes(spec)
    weight: NDArray[Any] = np.random.default_rng(0).standard_normal(spec.weight_shape, np.float32)
    if spec.element in HALVES and not is_depthwise(spec):
        weight = rounded(weight, spec.element)
    bias = np.zeros(spec.out_channels, np.float32)
    key, bias_key = weight_key(weight), weight_key(bias)
    source = Region.whole(spec.in_channels, spec.height, spec.width)
    target = Region.whole(spec.out_channels, spec.out_height, spec.out_width)
    conv = ir.Conv(0, spec, key, bias_key, "relu", 0, source, 1, target)
    precision = Precision(spec.element)
    buffers = (ir.Buffer("in", source, spec.padding, precision), ir.Buffer("out", target, precision=precision))
    shapes: dict[str, tuple[int, ...]] = {key: spec.weight_shape, bias_key: bias.shape}
    types = {} if weight.dtype == np.float32 else {key: weight_type(weight)}
    program = Program(0, 1, spec.batch, ("conv",), buffers, (conv,), shapes, weight_types=types)
    return program, {key: weight, bias_key: bias}


def _conv_of_bytes(spec: ConvSpec) -> tuple[Program, dict[str, NDArray[Any]]]:
    weight = np.random.default_rng(0).integers(-127, 128, spec.weight_shape, np.int8)
    arrays = (weight, np.zeros(spec.out_channels, np.int32), np.full(spec.out_channels, 1e-3, np.float32))
    weights: dict[str, NDArray[Any]] = {weight_key(array): array for array in arrays}
    key, bias, scales = weights
    source = Region.whole(spec.in_channels, spec.height, spec.width)
    target = Region.whole(spec.out_channels, spec.out_height, spec.out_width)
    conv = ir.Conv(0, spec, key, bias, "relu", 0, source, 1, target, scales=scales)
    read, made = Precision("uint8", 0.05, 128), Precision("uint8", 0.05, 0)
    buffers = (ir.Buffer("in", source, spec.padding, read), ir.Buffer("out", target, precision=made))
    shapes = {name: array.shape for name, array in weights.items()}
    types = {name: weight_type(array) for name, array in weights.items() if array.dtype != np.float32}
    return Program(0, 1, spec.batch, ("conv",), buffers, (conv,), shapes, weight_types=types), weights


_OF_BYTES = Precision("uint8", 0.05, 128)


def map_program(spec: MapSpec) -> Program:
    """A program of this one step. A pool is a maximum; an affine step has no scale, and a ReLU; elementwise operators get
    parameters of 0.5; a conversion is from fp32 to bytes, or to fp32. Raises KernelError for an unknown kind."""
    target = Region.whole(spec.channels, spec.height, spec.width)
    pixel = Region.whole(spec.channels, 1, 1)
    regions = [target] * (spec.sources + 1)
    last = spec.sources
    step: ir.MapStep | ir.Output
    match spec.kind:
        case "pool":
            height, width = ((n - 1) * s + k for n, s, k in zip(target.shape[1:], spec.stride, spec.kernel, strict=True))
            pool = PoolSpec("max", spec.channels, height, width, spec.kernel, spec.stride, batch=spec.batch)
            regions[0] = Region.whole(spec.channels, height, width)
            step = ir.Pool(0, pool, 0, regions[0], last, target)
        case "globalpool":
            regions[last] = pixel
            step = ir.GlobalPool(0, 0, target, last, pixel, spec.height * spec.width)
        case "add":
            step = ir.Add(0, tuple(range(last)), tuple(regions[:last]), last, target, "relu")
        case "affine":
            residual = (1, target) if last > 1 else (None, None)
            step = ir.Affine(0, 0, target, last, target, None, None, "relu", *residual)
        case "gate":
            regions.append(pixel)
            step = ir.Gate(0, 0, target, last + 1, pixel, last, target)
        case "softmax" | "log_softmax":
            step = ir.AcrossChannels(0, spec.kind, 0, target, last, target)
        case "layer_norm":
            step = ir.AcrossChannels(0, spec.kind, 0, target, last, target, (1e-5,))
        case "lrn":
            step = ir.AcrossChannels(0, spec.kind, 0, target, last, target, (5.0, 1e-4, 0.75, 1.0))
        case "permute":
            step = ir.Permute(0, 0, target, last, target, tuple(range(spec.channels))[::-1])
        case "copy":
            step = ir.Copy(0, 0, target, last, accumulate=last > 1)
        case "convert":
            step = ir.Convert(0, 0, target, last, target)
        case "resample":
            rows, columns = (_taps(n, k) for n, k in zip(target.shape[1:], spec.kernel, strict=True))
            regions[0] = Region.whole(spec.channels, rows.size, columns.size)
            step = ir.Resample(0, 0, regions[0], last, target, rows, columns)
        case "transpose":
            step = ir.Output(0, 0, 0, target)
        case "interleave":
            (s, t), (height, width) = spec.stride, target.shape[1:]
            phases = (Region.whole(spec.channels, -(-height // s), -(-width // t)),) * last
            regions[:last] = phases
            step = ir.Interleave(0, tuple(range(last)), phases, last, target, spec.stride)
        case _:
            from fogconv.kernels.codegen.formulas import formula

            parameters = (0.5,) * formula(spec.kind).parameters
            step = ir.Elementwise(0, spec.kind, tuple(range(last)), tuple(regions[:last]), last, target, parameters)
    kept = _OF_BYTES if spec.element == "uint8" else Precision(spec.element)
    made = kept if spec.kind != "convert" else _OF_BYTES if spec.element == "fp32" else FP32
    precisions = [made if number == last else kept for number in range(len(regions))]
    each = enumerate(zip(regions, precisions, strict=True))
    buffers = tuple(ir.Buffer(str(at), region, precision=precision) for at, (region, precision) in each)
    return Program(0, 1, spec.batch, (spec.kind,), buffers, (step,), {})


def _taps(outputs: int, taps: int) -> Taps:
    """As of a resize to twice the size; with one tap the nearest."""
    size = outputs // 2 + taps
    starts = tuple(k // 2 for k in range(outputs))
    return Taps(size, starts, ((1 / taps,) * taps,) * outputs if taps > 1 else ())


LEAST_S = 0.1
"""A CPU quota can give 1 ms in 10: single runs are then far too fast or far too slow, so the measurement spans many
periods."""
LEAST_MAP_S = 0.05
"""For steps other than convs, which are shorter and of less weight."""


LOOK_S = 0.2
"""Many short runs look so often whether they are still wanted."""


@dataclass(frozen=True, slots=True)
class StepTimes:
    """Seconds of one step: of the mean run, and of the fastest; and what else the device did meanwhile."""

    mean_s: float
    fastest_s: float
    load: DeviceLoad = IDLE


class Meter(Protocol):
    """What else the device does: ``load`` is of the time since it was asked last, in which ``look`` is called often."""

    def look(self) -> None: ...
    def load(self) -> DeviceLoad: ...


class NoMeter:
    """The device is not looked at."""

    def look(self) -> None: ...

    def load(self) -> DeviceLoad:
        return IDLE


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
    times = step_times(specs, build, threads=threads, repeats=repeats, least_s=least_s, clock=clock, proceed=proceed)
    return tuple(each.mean_s for each in times)


def step_times(
    specs: Sequence[StepSpec],
    build: Build,
    *,
    threads: int = 1,
    repeats: int = 3,
    least_s: float = LEAST_S,
    least_map_s: float = LEAST_MAP_S,
    clock: Callable[[], float] = time.perf_counter,
    proceed: Callable[[], None] = nothing,
    meter: Meter = NoMeter(),
) -> tuple[StepTimes, ...]:
    """``conv_seconds`` for steps of any kind, with the fastest run of each: where that is much faster than the mean,
    something else ran, and ``meter`` tells what."""
    found = []
    mailbox = NoMailbox(proceed)
    for spec in specs:
        proceed()
        program, weights = conv_program(spec) if isinstance(spec, ConvSpec) else (map_program(spec), {})
        least = least_s if isinstance(spec, ConvSpec) else least_map_s
        executable = build(program, weights, threads=threads, proceed=proceed)
        if isinstance(executable, Touches):
            executable.touch()
        executable.run(mailbox)
        meter.load()
        runs, elapsed, fastest, look, begin = 0, 0.0, float("inf"), LOOK_S, clock()
        while runs < repeats or elapsed < least:
            if elapsed > look:
                proceed()
                look = elapsed + LOOK_S
            executable.run(mailbox)
            runs += 1
            until_now = clock() - begin
            fastest, elapsed = min(fastest, until_now - elapsed), until_now
            meter.look()
        found.append(StepTimes(elapsed / runs, fastest, meter.load()))
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
