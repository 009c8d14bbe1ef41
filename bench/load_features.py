"""What a device's load tells: a forest that sees it against one that does not, on a device under varying stress.

    python -m bench.load_features [--json] [--phases 28] [--seed 0]

Burners of our own (processes that compute, or copy memory, for a part of the time) run beside this process, others in each
phase. Meanwhile steps of published nets are timed as a worker times them, with the load that it sees. Both forests are
fitted to every other phase and judged on the phases between: the steps are known, the stress is not. Without burners, and
with other work on the machine, the figures mean little: see "stress" in the output. Takes about two minutes.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import msgspec

from fogconv.calibration.sample_sizes import NET_STEPS
from fogconv.cluster.executor.executors import executor
from fogconv.cluster.executor.microbenchmark import step_times
from fogconv.cluster.worker.machine import LoadMeter
from fogconv.cluster.worker.process import cores
from fogconv.hardware.latency.features import amount
from fogconv.hardware.latency.predictors import fit
from fogconv.hardware.latency.samples import IDLE, Sample
from fogconv.ir.geometry import ConvSpec, StepSpec

LARGEST = 500e6
"""Larger steps take too long on a device that hardly gets a core."""
STEPS = 10
"""Per phase."""
LEAST_S = 0.25
SETTLE_S = 0.3
TURN_S = 0.02
"""A burner works for its part of each of these turns, and sleeps for the rest."""

BURNER = """
import sys, time
kind, part, turn_s = sys.argv[1], float(sys.argv[2]), float(sys.argv[3])
source, target = bytearray(32 << 20), bytearray(32 << 20)
while True:
    end = time.perf_counter() + part * turn_s
    while time.perf_counter() < end:
        if kind == "memory":
            target[: 1 << 20] = source[: 1 << 20]
            source, target = target, source
        else:
            sum(range(1000))
    if part < 1:
        time.sleep((1 - part) * turn_s)
"""


@dataclass(frozen=True, slots=True)
class Burner:
    """``part``: how much of the time it works."""

    kind: str
    part: float


@contextmanager
def burning(burners: Sequence[Burner]) -> Iterator[None]:
    """Run these processes, and end them."""
    command = [sys.executable, "-c", BURNER]
    running = [subprocess.Popen([*command, each.kind, str(each.part), str(TURN_S)]) for each in burners]
    try:
        time.sleep(SETTLE_S if running else 0.0)
        yield
    finally:
        for process in running:
            process.kill()
        for process in running:
            process.wait()


def stress(phases: int, generator: random.Random) -> list[tuple[Burner, ...]]:
    """The burners of each phase: none to two per core."""
    return [
        tuple(
            Burner(generator.choice(("compute", "memory")), generator.choice((0.25, 0.5, 0.75, 1.0)))
            for _ in range(generator.randint(0, 2 * cores()))
        )
        for _ in range(phases)
    ]


def timed(specs: Sequence[StepSpec], least_s: float = LEAST_S) -> list[Sample]:
    """Seconds of each step and the load meanwhile, as a worker measures them."""
    times = step_times(
        specs, executor(), threads=cores(), repeats=1, least_s=least_s, least_map_s=least_s, meter=LoadMeter()
    )
    return [Sample(spec, each.mean_s, each.load) for spec, each in zip(specs, times, strict=True)]


def errors(fitted: Sequence[Sample], judges: Sequence[Sample], *, with_load: bool) -> list[float]:
    """|predicted ÷ measured − 1| of each judge."""
    known = fitted if with_load else [replace(sample, load=IDLE) for sample in fitted]
    forest = fit("forest", known)
    predicted = (forest.seconds(judge.spec, judge.load if with_load else IDLE) for judge in judges)
    return [abs(seconds / judge.seconds - 1) for seconds, judge in zip(predicted, judges, strict=True)]


def experiment(phases: int, seed: int) -> dict[str, Any]:
    generator = random.Random(seed)
    steps = [spec for spec in NET_STEPS if amount(spec) < LARGEST]
    alone = {sample.spec: sample.seconds for sample in timed(steps)}  # and everything is compiled
    plan = stress(phases, generator)
    found: list[list[Sample]] = []
    for burners in plan:
        with burning(burners):
            found.append(timed(generator.sample(steps, STEPS)))
    fitted = [sample for phase in found[::2] for sample in phase]
    judges = [sample for phase in found[1::2] for sample in phase]
    seeing, blind = (errors(fitted, judges, with_load=with_load) for with_load in (True, False))
    return {
        "phases": phases,
        "samples": len(fitted),
        "judged": len(judges),
        "median_error_with_load": statistics.median(seeing),
        "median_error_without": statistics.median(blind),
        "ratio": statistics.median(seeing) / statistics.median(blind),
        "mean_error_with_load": statistics.fmean(seeing),
        "mean_error_without": statistics.fmean(blind),
        "convs": ratio_of(seeing, blind, [isinstance(judge.spec, ConvSpec) for judge in judges]),
        "slowed": spread_of([sample.seconds / alone[sample.spec] for phase in found for sample in phase]),
        "stress": [
            {
                "burners": [asdict(each) for each in burners],
                "cpu": statistics.fmean(sample.load.cpu for sample in phase),
                "queue": statistics.fmean(sample.load.queue for sample in phase),
            }
            for burners, phase in zip(plan, found, strict=True)
        ],
        "features": [name for name, value in msgspec.structs.asdict(found[0][0].load).items() if value is not None],
    }


def ratio_of(seeing: Sequence[float], blind: Sequence[float], chosen: Sequence[bool]) -> float:
    own, others = (statistics.median(e for e, mine in zip(each, chosen, strict=True) if mine) for each in (seeing, blind))
    return own / others


def spread_of(ratios: Sequence[float]) -> dict[str, float]:
    """How many times slower than alone the steps were."""
    low, middle, high = statistics.quantiles(ratios, n=4)
    return {"quarter": low, "median": middle, "three_quarters": high, "most": max(ratios)}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--phases", type=int, default=28, help="of other burners each (default: 28)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found = experiment(max(4, options.phases), options.seed)
    if options.json:
        print(json.dumps(found))
        return
    slowed, judged = found["slowed"]["median"], found["judged"]
    print(f"{judged} steps in {found['phases'] // 2} phases, in the middle {slowed:.1f}× slower than alone")
    print(f"median error of a forest without load features: {found['median_error_without']:.1%}")
    print(f"median error of a forest with them:             {found['median_error_with_load']:.1%}")
    print(f"the ratio: {found['ratio']:.2f} (convs: {found['convs']:.2f})")
    print(f"the system tells {', '.join(found['features'])}")


if __name__ == "__main__":
    main()
