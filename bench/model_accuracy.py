"""Accuracy of the model: predicted against measured, on the emulated cluster, for every scheme.

    python -m bench.model_accuracy --quick                          six cells, under five minutes
    python -m bench.model_accuracy --json --merge cells.json        all cells that cells.json lacks, kept there one by one
    python -m bench.model_accuracy --cell resnet50:rows:100mbit:even:zmq

The cells are a pairwise cover: each pair of net, scheme, link, share of a core and transport is in one of them. Five nodes
of 0.1 core on average; rates are measured under the quotas, with every node at work. Each cell has

    layer error   of the layers that are distributed and take 1 % of the inference at least, the median of
                  |predicted ÷ measured − 1|, and the same less the standard errors of both means: under a quota a layer of
                  2 ms takes 1 ms or 11, by where it meets the end of a node's slice
    total error   |predicted − median of the inferences|, less the cell's own spread (half of the interquartile range of its
                  inferences), as a share of that median
    cpu           the workers' predicted processor time ÷ what their control groups counted, which no quota scatters
    agreement     the largest difference between planner, simulator and (star) calculator for this plan

Inferences are predicted and measured alike, three in a row from a random position in the nodes' periods, the first of which
is left out. The loaded cell has other work on all nodes while rates are measured, none later; its prediction is the one
after five inferences, by which the engine has corrected its rates. A star distributes every conv where links have 400 Mbit
or more, and by the rule elsewhere, where that would take minutes. Needs root.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from bench.fog.conversation import Contender
from bench.fog.job import LAYER_SEEDS
from bench.fog.run import LOAD_TIMEOUT_S, RUN_TIMEOUT_S, Setup, calibrated, cluster_commands, start
from bench.fog.testbed import FogBed
from fogconv.calibration.sample_sizes import random_convs
from fogconv.cluster.executor.executable import Executable
from fogconv.cluster.executor.microbenchmark import conv_seconds
from fogconv.errors import FogconvError, InputError
from fogconv.hardware.latency.predictors import compare
from fogconv.hardware.latency.samples import Sample
from fogconv.simulation.prediction import IN_A_ROW

NETS = ("vgg16", "resnet50", "inception_v3", "mobilenet_v2")
SCHEMES = ("star", "rows", "depth", "auto")
RATES = ("1gbit", "400mbit", "100mbit", "50mbit")
SHARES = {"even": (0.1,) * 5, "uneven": (0.1, 0.2, 0.1, 0.05, 0.05)}
TRANSPORTS = ("zmq", "mpi", "secure")
FORCED = ("1gbit", "400mbit")
"""Links on which a star distributes every conv."""

MOST_CELLS, QUICK_CELLS = 30, 6
RUN_S, LEAST_RUNS, MOST_RUNS = 20.0, 6, 80
"""Seconds of inferences per cell, and the least and most number of those that count."""
PAUSE_S = 0.1
"""The longest pause between two bursts of inferences: some periods."""
LEAST_SHARE = 0.01
ADAPTED = 5
"""Inferences after which rates that were measured beside other work are right."""
LAYER, TOTAL, WORST, AGREEMENT, WITHIN = 0.08, 0.05, 0.15, 0.03, 0.85
"""What is asked for: per layer; in total, in WITHIN of the cells; in every cell; between planner, simulator, calculator."""

PASSES = 3
"""Passes over the convs for the predictors; the shortest time counts, because a shared machine's speed varies."""


@dataclass(frozen=True, slots=True)
class Cell:
    net: str
    scheme: str
    rate: str
    shares: str
    transport: str
    loaded: bool = False

    def __str__(self) -> str:
        return ":".join(astuple(self)[:5]) + (":loaded" if self.loaded else "")

    @staticmethod
    def parse(text: str) -> Cell:
        """NET:SCHEME:RATE:even|uneven:TRANSPORT[:loaded]. Raises InputError."""
        words = text.split(":")
        known = ((), SCHEMES, (), tuple(SHARES), TRANSPORTS)
        fine = len(words) in (5, 6) and words[5:] in ([], ["loaded"])
        if not fine or any(names and word not in names for names, word in zip(known, words, strict=False)):
            raise InputError(f"--cell {text}: write NET:SCHEME:RATE:even:zmq, such as resnet50:rows:100mbit:uneven:secure")
        net, scheme, rate, shares, transport = words[:5]
        return Cell(net, scheme, rate, shares, transport, loaded=len(words) == 6)

    def setup(self) -> Setup:
        transport = "mpi" if self.transport == "mpi" else "zmq"
        shares = SHARES[self.shares]
        return Setup(self.net, len(shares), shares, self.rate, self.scheme, transport, secure=self.transport == "secure")

    @property
    def options(self) -> dict[str, Any]:
        return {"threshold": 0.0} if self.scheme == "star" and self.rate in FORCED else {}


LOADED = Cell("resnet50", "rows", "1gbit", "even", "zmq", loaded=True)


def cover() -> list[Cell]:
    """A pairwise cover, found greedily: every time the cell that has the most pairs that none before it has."""
    axes: tuple[Sequence[str], ...] = (NETS, SCHEMES, RATES, tuple(SHARES), TRANSPORTS)
    every = list(itertools.product(*axes))
    left = {pair for values in every for pair in _pairs(values)}
    found = []
    while left:
        best = max(every, key=lambda values: sum(pair in left for pair in _pairs(values)))
        left -= set(_pairs(best))
        net, scheme, rate, shares, transport = best
        found.append(Cell(net, scheme, rate, shares, transport))
    return found


def _pairs(values: Sequence[str]) -> Iterator[tuple[tuple[int, str], tuple[int, str]]]:
    yield from itertools.combinations(enumerate(values), 2)


def measure(cell: Cell) -> dict[str, Any]:
    """One cell, on a cluster of its own."""
    setup = cell.setup()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fogconv-accuracy-")))
        bed = stack.enter_context(FogBed(setup.nodes, setup.rate))
        commands = cluster_commands(setup, bed, folder / "all", options=cell.options, adapt=cell.loaded)
        master = start(stack, bed, folder, "all", commands)
        master.receive(LOAD_TIMEOUT_S)
        load = [busy(bed, node) for node in range(setup.nodes)] if cell.loaded else []
        facts = calibrated(bed, master, setup.cpu)
        for process in load:
            process.kill()
            process.wait()
        bed.set_cpu(setup.cpu)
        first = master.run(ADAPTED if cell.loaded else 1, RUN_TIMEOUT_S)
        before = [bed.usage(node).cpu_s for node in range(setup.nodes)]
        if cell.loaded:
            answer = master.run(LEAST_RUNS, RUN_TIMEOUT_S)  # an engine may plan again, under the quotas
        else:
            repeats = min(MOST_RUNS, max(LEAST_RUNS, round(RUN_S / first["seconds"][-1])))
            answer = in_bursts(master, repeats)
        spent = [bed.usage(node).cpu_s - then for node, then in enumerate(before)]
        bed.set_cpu(None)
    answer["cpu_s"] = [seconds / answer["inferences"] for seconds in spent]
    if cell.loaded:
        facts |= {"first_predicted_s": facts["predicted_s"], "predicted_s": answer["predicted_s"][0]}
        facts |= {"layers": answer["layers"], "agreement": {"planner_s": answer["predicted_s"][-1]}}
    return summary(cell, facts, answer)


def in_bursts(master: Contender, repeats: int) -> dict[str, Any]:
    """So many inferences as they are predicted: IN_A_ROW back to back, of which the first does not count, from a position in
    the nodes' periods that differs from burst to burst."""
    chance = random.Random(0)
    answers = []
    for _ in range(math.ceil(repeats / (IN_A_ROW - 1))):
        time.sleep(chance.uniform(0.0, PAUSE_S))
        answers.append(master.run(IN_A_ROW, RUN_TIMEOUT_S))
    joined = {key: [value for each in answers for value in each[key][1:]] for key in ("seconds", "layer_totals_s")}
    return answers[-1] | joined | {"inferences": IN_A_ROW * len(answers)}


def busy(bed: FogBed, node: int) -> subprocess.Popen[Any]:
    """A process that competes for a node's share of the processor."""
    return bed.popen(node, [sys.executable, "-I", "-S", "-c", "while True: pass"], stdin=subprocess.DEVNULL)


def summary(cell: Cell, facts: dict[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
    seconds = answer["seconds"]
    latency = statistics.median(seconds)
    quarter = statistics.quantiles(seconds, n=4, method="inclusive")
    spread = (quarter[2] - quarter[0]) / 2
    predicted = facts["predicted_s"]
    totals = [statistics.fmean(each) for each in zip(*answer["layer_totals_s"], strict=True)]
    doubts = [_doubt_s(each) for each in zip(*answer["layer_totals_s"], strict=True)]
    judged = [
        (abs(layer["predicted"]["total_s"] - found), found, doubt)
        for layer, found, doubt in zip(facts["layers"], totals, doubts, strict=True)
        if layer["split"] and found >= LEAST_SHARE * latency
    ]
    errors = [off / found for off, found, _ in judged]
    beyond = [max(0.0, off - doubt) / found for off, found, doubt in judged]
    cpu = [(facts["cpu_s"][rank], answer["cpu_s"][rank]) for rank in range(1, len(facts.get("cpu_s", [])))]
    figures = list(facts["agreement"].values())
    return {
        **asdict(cell),
        "cell": str(cell),
        "predicted_s": predicted,
        "latency_s": latency,
        "ratio": predicted / latency,
        "spread": spread / latency,
        "total_error": max(0.0, abs(predicted - latency) - spread) / latency,
        "layer_error": statistics.median(errors) if errors else None,
        "layer_error_beyond_noise": statistics.median(beyond) if beyond else None,
        "layers_judged": len(errors),
        "cpu": sum(expected for expected, _ in cpu) / sum(found for _, found in cpu) if cpu else None,
        "agreement": max(figures) / min(figures) - 1 if min(figures) else 0.0,
        "first_predicted_s": facts.get("first_predicted_s"),
        "events": answer.get("events", []),
        "inferences": len(seconds),
        "message_s": facts["message_s"],
        "gamma_s_per_mac": facts["gamma"][0]["default"],
        "byte_s": facts["byte_s"],
        "layers": [
            layer | {"measured_s": found, "doubt_s": doubt}
            for layer, found, doubt in zip(facts["layers"], totals, doubts, strict=True)
        ],
    }


def _doubt_s(seconds: Sequence[float]) -> float:
    """The standard error of the difference between the mean of these and that of the simulated ones, which scatter alike."""
    if len(seconds) < 2:
        return 0.0
    return statistics.stdev(seconds) * math.sqrt(1 / len(seconds) + 1 / (LAYER_SEEDS * (IN_A_ROW - 1)))


def verdict(cells: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """What is asked for, over all cells."""
    found = list(cells)
    plain = [cell for cell in found if not cell["loaded"]]
    judged = [cell["layer_error"] for cell in found if cell["layer_error"] is not None]
    beyond = [cell["layer_error_beyond_noise"] for cell in found if cell["layer_error"] is not None]
    cpu = [cell["cpu"] for cell in plain if cell["cpu"]]
    if not plain:
        return {"cells": 0}
    worst = max(plain, key=lambda cell: cell["total_error"])
    return {
        "cells": len(plain),
        "layer_error": statistics.median(judged) if judged else None,
        "layer_error_beyond_noise": statistics.median(beyond) if beyond else None,
        "cpu": statistics.median(cpu) if cpu else None,
        "cells_within_layer_error": sum(error <= LAYER for error in judged) / len(judged) if judged else None,
        "total_within": sum(cell["total_error"] <= TOTAL for cell in plain) / len(plain),
        "worst_total_error": worst["total_error"],
        "worst_cell": worst["cell"],
        "agreement": max(cell["agreement"] for cell in plain),
        "loaded_total_error": next((cell["total_error"] for cell in found if cell["loaded"]), None),
        "asked": {"layer": LAYER, "total": TOTAL, "of_cells": WITHIN, "worst": WORST, "agreement": AGREEMENT},
    }


def predictors(samples: int, held_out: int) -> dict[str, Any]:
    """All predictors, on convs that they were not fitted to; by the thread's own time, so that other work does not
    count."""
    specs = random_convs(samples + held_out, seed=11)
    passes = [conv_seconds(specs, Executable, repeats=2, least_s=0.01, clock=time.thread_time) for _ in range(PASSES)]
    found = [Sample(spec, min(seconds)) for spec, *seconds in zip(specs, *passes, strict=True)]
    scores = compare(found[:samples], found[samples:])
    return {name: {"within_10pct": score.within_10pct, "mape": score.mape} for name, score in scores.items()}


def kept(file: Path | None) -> dict[str, Any]:
    """The cells that a file has. Raises InputError for another file."""
    if file is None or not file.exists():
        return {"cells": [], "predictors": {}}
    try:
        found = json.loads(file.read_bytes())
        for cell in found["cells"]:
            Cell.parse(cell["cell"])
            cell["layer_error_beyond_noise"], cell["cpu"]
        return {"cells": list(found["cells"]), "predictors": dict(found["predictors"])}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"--merge {file}: it is not a result of bench.model_accuracy --json ({error})") from error


def keep(file: Path | None, found: dict[str, Any]) -> None:
    if file is not None:
        part = file.with_name(file.name + ".part")
        part.write_text(json.dumps(found))
        part.replace(file)


def line(cell: dict[str, Any]) -> str:
    layer, cpu = "    –", ""
    if cell["layer_error"] is not None:
        layer = f"{cell['layer_error']:5.1%} (beyond noise {cell['layer_error_beyond_noise']:5.1%})"
    if cell["cpu"]:
        cpu = f", cpu {cell['cpu']:.2f}"
    return (
        f"{cell['cell']:43s} predicted {cell['predicted_s'] * 1e3:7.1f} ms, measured {cell['latency_s'] * 1e3:7.1f} "
        f"(±{cell['spread']:.0%}), ratio {cell['ratio']:.2f}: layers {layer}, total {cell['total_error']:5.1%}{cpu}, "
        f"agreement {cell['agreement']:.1%}"
    )


def markdown(found: dict[str, Any]) -> Iterator[str]:
    yield "| cell | predicted ms | measured ms | its spread | layers | beyond noise | total | cpu | agreement |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for cell in found["cells"]:
        layer = " | "
        if cell["layer_error"] is not None:
            layer = f"{cell['layer_error']:.1%} | {cell['layer_error_beyond_noise']:.1%}"
        cpu = f"{cell['cpu']:.2f}" if cell["cpu"] else ""
        yield (
            f"| {cell['cell'].replace(':', ' ')} | {cell['predicted_s'] * 1e3:.0f} | {cell['latency_s'] * 1e3:.0f} "
            f"| {cell['spread']:.1%} | {layer} | {cell['total_error']:.1%} | {cpu} | {cell['agreement']:.1%} |"
        )
    if found["predictors"]:
        yield from ("", "| predictor | within 10 % | mean absolute error |", "|---|---|---|")
        for name, score in found["predictors"].items():
            yield f"| {name} | {score['within_10pct']:.1%} | {score['mape']:.1%} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cell", nargs="*", help="NET:SCHEME:RATE:even|uneven:TRANSPORT[:loaded], instead of the cover")
    parser.add_argument("--quick", action="store_true", help=f"the first {QUICK_CELLS} cells of the cover alone")
    parser.add_argument("--merge", type=Path, help="a file of cells: those in it are not measured again, new ones are added")
    parser.add_argument("--seconds", type=float, help="begin no cell after so many seconds")
    parser.add_argument("--samples", type=int, default=0, help="convs to fit the predictors (900 for docs); 0: leave out")
    parser.add_argument("--held-out", type=int, default=150)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--markdown", action="store_true", help="the tables of docs/report/accuracy.md")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, _terminated)  # the emulated cluster is removed at the end
    try:
        found = measured(options)
    except FogconvError as error:
        print(f"bench.model_accuracy: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    if options.json:
        print(json.dumps(found | {"verdict": verdict(found["cells"])}))
        return
    if options.markdown:
        print("\n".join(markdown(found)))
        return
    for cell in found["cells"]:
        print(line(cell))
    for name, value in verdict(found["cells"]).items():
        print(f"{name:26s} {value:.3f}" if isinstance(value, float) else f"{name:26s} {value}")


def measured(options: argparse.Namespace) -> dict[str, Any]:
    found = kept(options.merge)
    if options.cell is not None:
        wanted = [Cell.parse(text) for text in options.cell]
    else:
        wanted = cover()[:QUICK_CELLS] if options.quick else [*cover(), LOADED]
    done = {cell["cell"] for cell in found["cells"]}
    until = time.monotonic() + options.seconds if options.seconds else float("inf")
    for cell in wanted:
        if str(cell) in done or time.monotonic() > until:
            continue
        begin = time.monotonic()
        try:
            found["cells"].append(measure(cell))
        except FogconvError as error:
            print(f"{cell}: {error}", file=sys.stderr)
            continue
        keep(options.merge, found)
        print(f"{line(found['cells'][-1])}, {time.monotonic() - begin:.0f} s", file=sys.stderr)
    if options.samples:
        found["predictors"] = predictors(options.samples, options.held_out)
        keep(options.merge, found)
    return found


def _terminated(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)


if __name__ == "__main__":
    main()
