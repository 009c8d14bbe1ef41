"""Training: what the passes of a layer in training cost, measured by each rank on itself.

Every rank runs the same programs as a layer that is trained (`fogconv.lowering.training`), alone and one after the other,
for a few convs of each kernel class; the times are those of its own steps, so that no transfer counts.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import msgspec
import numpy as np
from numpy.typing import NDArray

from fogconv.cluster.executor.array_steps import Arrays
from fogconv.cluster.executor.executable import Executable
from fogconv.cluster.session.loaded_program import Loaded
from fogconv.cluster.session.session import Session
from fogconv.hardware.profile import Profile
from fogconv.hardware.training_costs import PassName, PassSample, fit_costs
from fogconv.ir.arrays import Array
from fogconv.ir.geometry import ConvSpec, Region
from fogconv.ir.layout import MASTER
from fogconv.ir.program import Program
from fogconv.ir.shard import conv_shard
from fogconv.ir.steps import ConvForward, ConvGradInput, ConvGradWeight
from fogconv.lowering.training import Pass, pass_programs

REPEATS = 5
PASSES: dict[type, PassName] = {ConvForward: "forward", ConvGradInput: "input", ConvGradWeight: "weight"}

_PAD = (1, 1, 1, 1)
_SIZES = (
    (ConvSpec(64, 64, 28, 28, (3, 3), padding=_PAD), (1, 8)),
    (ConvSpec(64, 32, 56, 56, (3, 3), padding=_PAD), (1, 4)),
    (ConvSpec(256, 128, 14, 14, (3, 3), padding=_PAD), (1, 8)),
    (ConvSpec(512, 256, 7, 7, (3, 3), padding=_PAD), (1, 8)),
    (ConvSpec(128, 128, 28, 28, (1, 1)), (1, 8)),
    (ConvSpec(512, 512, 14, 14, (1, 1)), (1, 4)),
    (ConvSpec(1024, 256, 7, 7, (1, 1)), (1, 8)),
    (ConvSpec(64, 64, 28, 28, (3, 3), stride=(2, 2), padding=_PAD), (1, 8)),
    (ConvSpec(256, 128, 14, 14, (3, 3), stride=(2, 2), padding=_PAD), (1, 8)),
    (ConvSpec(256, 256, 28, 28, (1, 1), stride=(2, 2)), (1, 4)),
    (ConvSpec(128, 128, 17, 17, (1, 7), padding=(0, 0, 3, 3)), (1, 4)),
    (ConvSpec(64, 96, 27, 27, (5, 5), padding=(2, 2, 2, 2)), (1, 4)),
    (ConvSpec(128, 128, 28, 28, (3, 3), padding=_PAD, groups=128), (1, 8)),
    (ConvSpec(480, 480, 14, 14, (5, 5), padding=(2, 2, 2, 2), groups=480), (1, 4)),
    (ConvSpec(96, 96, 56, 56, (3, 3), stride=(2, 2), padding=_PAD, groups=96), (1, 4)),
    (ConvSpec(128, 128, 28, 28, (3, 3), padding=_PAD, groups=32), (1, 4)),
    (ConvSpec(256, 256, 14, 14, (3, 3), padding=_PAD, groups=32), (1, 8)),
    (ConvSpec(128, 128, 28, 28, (3, 3), stride=(2, 2), padding=_PAD, groups=32), (1, 4)),
    (ConvSpec(3, 64, 112, 112, (7, 7), stride=(2, 2), padding=(3, 3, 3, 3)), (1, 4)),
    (ConvSpec(3, 32, 112, 112, (3, 3), stride=(2, 2), padding=_PAD), (1, 8)),
    (ConvSpec(3, 64, 56, 56, (3, 3), padding=_PAD), (1, 8)),
)
TRAINED = tuple(replace(spec, batch=batch) for spec, batches in _SIZES for batch in batches)
"""A few convs of each kernel class; small, for all of them are sent to every rank."""


def with_training(session: Session, profile: Profile, specs: Sequence[ConvSpec] = TRAINED) -> Profile:
    """The profile with the training costs of every rank that is there. Raises the session's errors."""
    devices = list(profile.devices)
    for rank, costs in measure_training(session, specs).items():
        devices[rank] = msgspec.structs.replace(devices[rank], training=costs)
    return msgspec.structs.replace(profile, devices=tuple(devices))


def measure_training(
    session: Session,
    specs: Sequence[ConvSpec] = TRAINED,
    *,
    repeats: int = REPEATS,
    middle: Callable[[Sequence[float]], float] = statistics.median,
) -> dict[int, dict[str, float]]:
    """Rank → its costs; rank after rank, so that no two measure at the same time. ``middle`` of the repeats counts."""
    ranks = (MASTER, *(worker.rank for worker in session.workers))
    return {rank: fit_costs(s for spec in specs for s in _samples(session, rank, spec, repeats, middle)) for rank in ranks}


def _samples(
    session: Session, rank: int, spec: ConvSpec, repeats: int, middle: Callable[[Sequence[float]], float]
) -> Iterator[PassSample]:
    """Each pass of one conv; the first step compiles and is not counted."""
    shard = conv_shard(rank, spec, Region.whole(spec.out_channels, spec.out_height, spec.out_width))
    spec = shard.spec  # without rows and columns that no output reads
    there = (Pass(False, ship=True, keep=True), Pass(True, ship=False, send_x=False, grad_x=True, grad_w=True))
    programs = [pass_programs(spec, (shard,), run, ranks=session.ranks, name="training") for run in there]
    random = np.random.default_rng(0)
    x, y, grad_x = (_noise(random, shape) for shape in (spec.input_shape, spec.output_shape, spec.input_shape))
    weights = [_noise(random, spec.weight_shape) for _ in range(2)]  # as in training, every step has others
    grad_w = np.empty(spec.weight_shape, np.float32)
    times: dict[PassName, list[float]] = {name: [] for name in PASSES.values()}
    loaded: list[Loaded] = []
    try:
        arrays = Arrays()
        for each in programs:
            loaded.append(session.load(each, {}))
            executable = loaded[-1].executable
            if isinstance(executable, Executable):
                executable.arrays = arrays
        for number in range(repeats + 1):
            weight = weights[number % 2]
            backward = [x, y, weight] if rank == MASTER else [y]
            for part, own, inputs in zip(
                loaded, programs, ([x, weight, y.copy()], [*backward, grad_x, grad_w]), strict=True
            ):
                result = session.run(part, inputs)
                for name, seconds in _timed(own, rank, result.times[rank]):
                    times[name].append(seconds)
    finally:
        for part in loaded:
            session.unload(part)
    return (PassSample(name, spec, middle(found[1:])) for name, found in times.items())


def _noise(random: np.random.Generator, shape: tuple[int, ...]) -> Array:
    return random.standard_normal(shape, np.float32)


def _timed(programs: Sequence[Program], rank: int, times: NDArray[np.int64]) -> Iterator[tuple[PassName, float]]:
    (program,) = (each for each in programs if each.rank == rank)
    for step, (begin, end) in zip(program.steps, times.tolist(), strict=True):
        if type(step) in PASSES:
            yield PASSES[type(step)], (end - begin) * 1e-9
