"""Every distinct conv of networks in all runtimes, in turns: what `python -m bench.peers --convs` does.

What a call costs besides the conv (the call itself, copies of the input and of the output, their conversion into a
runtime's own layout and back) is none of the conv's, and of small ones it would be most of the time. So each runtime gets
two models which differ in nothing but the number of convs (`bench.peers.conv_models`): the difference of their times, over
the difference of those numbers, is the time of one conv, between maps in the layout that the runtime chose. fogconv is no
exception: its models are the same files, through its engine.

Times are seconds of the processor, so that other work on the same core does not count as a runtime's. Of all inferences of a
model the fastest counts, because that work leaves cold caches behind: a difference of medians would be mostly theirs.
"""

from __future__ import annotations

import importlib.util
import json
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bench.peers import conv_models
from bench.peers.conv_models import Case, distinct
from bench.peers.model_files import FP32
from bench.peers.process import Process
from bench.peers.runtimes import RUNTIMES

OURS = "fogconv"
FEW = 2
"""Convs in the smaller model. The weights of one alone would stay in the cache from call to call."""
DIFFERENCE_S, MACS_PER_S, MOST_FOURS = 3e-4, 5e10, 8
"""The larger one has so many more that the difference takes about so long on a core of this rate, but at most so many times
four: what a call costs varies by microseconds."""
TURN_S = 0.02
"""A turn of one model takes about so long, or `MOST` inferences."""
LEAST, MOST = 3, 60
MOST_ERROR = 1e-3


def compared(case: Case, processes: Mapping[str, Process], folder: Path, rounds: int) -> dict[str, Any]:
    """One row: microseconds by runtime, fogconv's time over that of the fastest other one, errors against float64."""
    models = {convs: folder / f"{convs}" for convs in (FEW, many(case))}
    forms = {RUNTIMES[name].forms[FP32] for name in processes}
    missing: dict[str, str] = {}
    for convs, path in models.items():
        missing |= conv_models.write(case, convs, max(models), path, forms)
    errors: dict[str, float] = {}
    left_out: dict[str, str] = {}
    counts: dict[str, dict[int, int]] = {}
    for name, process in processes.items():
        form = RUNTIMES[name].forms[FP32]
        if form in missing:
            left_out[name] = missing[form]
            continue
        try:
            error = max(process.opened(path) for path in models.values())
            warm = {convs: min(process.processor_seconds(path, LEAST)) for convs, path in models.items()}
        except RuntimeError as why:
            left_out[name] = str(why)
            continue
        if not error <= MOST_ERROR:
            left_out[name] = f"its error is {error:.2g}"
            continue
        errors[name] = error
        counts[name] = {convs: min(MOST, max(LEAST, round(TURN_S / seconds))) for convs, seconds in warm.items()}
    fastest = {name: dict.fromkeys(models, float("inf")) for name in errors}
    for _ in range(rounds):
        for name, seconds in fastest.items():
            for convs, path in models.items():
                seconds[convs] = min(seconds[convs], *processes[name].processor_seconds(path, counts[name][convs]))
    for name in errors:
        processes[name].close_models()
    times = {name: each_conv(seconds) for name, seconds in fastest.items()}
    return {
        "conv": case.label,
        "times_us": {name: 1e6 * seconds for name, seconds in times.items()},
        "ratio_to_best": ratio_to_best(times),
        "max_rel_error": errors,
        "left_out": left_out,
    }


def many(case: Case) -> int:
    """Convs in the larger model, a multiple of `FEW`."""
    return FEW + 4 * min(MOST_FOURS, -(-int(DIFFERENCE_S * MACS_PER_S) // (4 * case.spec.macs)))


def each_conv(seconds: Mapping[int, float]) -> float:
    """Seconds of one conv, from those of the two models by their numbers of convs."""
    few, more = sorted(seconds)
    return (seconds[more] - seconds[few]) / (more - few)


def ratio_to_best(times: Mapping[str, float]) -> float | None:
    """fogconv's time over that of the fastest other; None where one of them is missing."""
    others = [seconds for name, seconds in times.items() if name != OURS]
    return times[OURS] / min(others) if others and OURS in times else None


def rows(cases: Iterable[Case], runtimes: Sequence[str], rounds: int, kept: Path | None) -> Iterator[dict[str, Any]]:
    """A row for each case, in order. Those that ``kept`` has are read from there, new ones added to it, a line of JSON
    each."""
    known = {row["conv"]: row for row in map(json.loads, kept.read_text().splitlines())} if kept and kept.exists() else {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fogconv-convs-")))
        processes: dict[str, Process] = {}
        for case in cases:
            if case.label not in known:
                for name in runtimes:  # again, where one ended
                    if name not in processes and importlib.util.find_spec(RUNTIMES[name].module) is not None:
                        processes[name] = Process(stack, name, folder, 1, FP32)
                with tempfile.TemporaryDirectory(dir=folder) as place:
                    row = compared(case, processes, Path(place), rounds)
                for name in row["left_out"]:
                    processes.pop(name).end()
                known[case.label] = row
                if kept:
                    with kept.open("a") as file:
                        file.write(json.dumps(row) + "\n")
            yield known[case.label]


def chosen(nets: Sequence[str], only: str, every: int) -> dict[Case, Counter[str]]:
    """The distinct convs of these nets with ``only`` in their labels, of these every so many-th, and how often each net has
    them. Raises InputError for an unknown net."""
    found: dict[Case, Counter[str]] = {}
    for net in nets:
        for case, count in distinct(net).items():
            if only in case.label:
                found.setdefault(case, Counter())[net] += count
    return {case: found[case] for case in list(found)[::every]}


def worst(found: Iterable[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The row with the largest ratio; None where nothing else ran."""
    comparable = [row for row in found if row["ratio_to_best"] is not None]
    return max(comparable, key=lambda row: row["ratio_to_best"], default=None)


def line(row: Mapping[str, Any]) -> str:
    times = "  ".join(f"{name} {us:.0f}" for name, us in sorted(row["times_us"].items(), key=lambda pair: pair[1]))
    ratio = "  –  " if row["ratio_to_best"] is None else f"{row['ratio_to_best']:5.2f}"
    missing = "".join(f"; without {name}: {why}" for name, why in row["left_out"].items())
    return f"{row['conv']:36s} {ratio}  {times} µs{missing}"
