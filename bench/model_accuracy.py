"""Accuracy of the model: predicted against measured, layer by layer, on the emulated cluster.

    python -m bench.model_accuracy [--json] [--net vgg16 …] [--rate 100mbit …] [--workers 2 …]
    python -m bench.model_accuracy --json --case vgg16:1gbit:4 > one.json     some cases only (all of it takes half an hour)
    python -m bench.model_accuracy --json --merge one.json two.json …         and all in one again

Nodes of 0.2 core, every conv distributed (the paper's star), inferences back to back, quotas applied after loading and
compiling. And how well each predictor predicts convs that it was not fitted to. Needs root.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec

from bench.accuracy_master import CPU, Question, Task
from bench.fog.conversation import Contender
from bench.fog.run import start
from bench.fog.testbed import FogBed
from fogconv.calibration.sample_sizes import random_convs
from fogconv.cluster.executor.executable import Executable
from fogconv.cluster.executor.microbenchmark import conv_seconds
from fogconv.errors import FogconvError, InputError
from fogconv.hardware.latency_models import compare
from fogconv.hardware.latency_samples import Sample

TERMS = ("part_s", "tx_s", "edge_s", "rx_s", "join_s", "total_s")
PORT = 5555
TIMEOUT_S = 900.0
LEAST_S = 40.0
"""A layer's time varies by a quarter where it is as short as a quota's period, so short nets run more often."""
PINGS, PING_BYTES = 50, 4_000_000
REHEARSALS = (60, 25)
"""Repeats of each; the second takes longer."""

PASSES = 3
"""Passes over the convs for the predictors; the shortest time counts, because a shared machine's speed varies."""

Costs = tuple[tuple[float, float], tuple[float, float]]


def case(net: str, rate: str, workers: int, repeats: int, keep: str = "") -> dict[str, Any]:
    """One net on one cluster: the median error over its distributed layers, and that of their sum."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fogconv-accuracy-")))
        bed = stack.enter_context(FogBed(workers + 1, rate))
        addresses = [f"tcp://{node.address}:{PORT}" for node in bed.nodes[1:]]
        task = Task(net, ",".join(addresses), keep=str(Path(keep, f"{net}-{rate}-{workers}").absolute()) if keep else "")
        serve: list[list[object]] = [
            [sys.executable, "-m", "fogconv.cli.commands.worker", "--bind", address, "--threads", 1, "--insecure"]
            for address in addresses
        ]
        drive: list[object] = ["-m", "bench.accuracy_master", folder / "master", msgspec.json.encode(task).decode()]
        master = start(stack, bed, folder, "master", [*serve, drive])
        master.receive(TIMEOUT_S)
        shares = (CPU,) * (workers + 1)
        bed.set_cpu(shares)
        measured = ask(master, Question("measure"))
        costs = byte_costs(bed, master)
        nodes = range(workers + 1)
        rehearsal = tuple(
            spent(bed, master, Question("rehearse", count, which=number), nodes) for number, count in enumerate(REHEARSALS)
        )
        bed.set_cpu(None)
        measured |= ask(master, Question("load", byte_cpu_s=costs, rehearsal_cpu_s=rehearsal))
        bed.set_cpu(shares)
        warm = ask(master, Question("run"))["runs"][0]["latency_s"]
        repeats = max(repeats, round(LEAST_S / warm))
        used = [bed.usage(node).cpu_s for node in range(workers + 1)]
        runs = ask(master, Question("run", repeats))["runs"]
        measured["cpu_s"] = [(bed.usage(node).cpu_s - then) / repeats for node, then in enumerate(used)]
        measured["rehearsal_cpu_s"] = rehearsal
        bed.set_cpu(None)
    return summary(net, rate, workers, runs, measured)


def ask(master: Contender, question: Question) -> dict[str, Any]:
    return master.do(msgspec.to_builtins(question), TIMEOUT_S)


def byte_costs(bed: FogBed, master: Contender) -> Costs:
    """Processor seconds per byte sent and per byte received, on the master and on a worker."""
    empty = spent(bed, master, Question("pings", PINGS), (0, 1))
    there = spent(bed, master, Question("pings", PINGS, there_bytes=PING_BYTES), (0, 1))
    back = spent(bed, master, Question("pings", PINGS, back_bytes=PING_BYTES), (0, 1))
    out, into = ([max(0.0, a - b) / PING_BYTES for a, b in zip(found, empty, strict=True)] for found in (there, back))
    return (out[0], into[0]), (into[1], out[1])


def spent(bed: FogBed, master: Contender, question: Question, nodes: Sequence[int]) -> tuple[float, ...]:
    """Processor seconds per requested item, by the nodes' control groups."""
    before = [bed.usage(node).cpu_s for node in nodes]
    ask(master, question)
    return tuple((bed.usage(node).cpu_s - then) / question.count for node, then in zip(nodes, before, strict=True))


def summary(net: str, rate: str, workers: int, runs: list[Any], calibrated: dict[str, Any]) -> dict[str, Any]:
    layers = []
    for index, layer in enumerate(runs[0]["layers"]):
        # The mean: a node's position in its quota's period changes a few ms, and the model predicts the average.
        measured = {term: statistics.fmean(run["layers"][index]["measured"][term] for run in runs) for term in TERMS}
        error = layer["predicted"]["total_s"] / measured["total_s"] - 1
        layers.append(layer | {"measured": measured, "error": error})
    terms = {
        term: {f"{kind}_s": sum(layer[kind][term] for layer in layers) for kind in ("predicted", "formula", "measured")}
        for term in TERMS
    }
    latency = statistics.fmean(run["latency_s"] for run in runs)
    return {
        "net": net,
        "rate": rate,
        "workers": workers,
        **errors(layers, "predicted", latency),
        "formula": errors(layers, "formula", latency),
        "latency_s": latency,
        "inferences": len(runs),
        "terms": terms,
        "calibrated": calibrated,
        "layers": layers,
    }


def errors(layers: list[dict[str, Any]], kind: str, latency_s: float) -> dict[str, float]:
    """Errors of one kind of prediction: the median over the layers, and that of their sum as a share of the latency."""
    totals = [(layer[kind]["total_s"], layer["measured"]["total_s"]) for layer in layers]
    return {
        "median_layer_error": statistics.median(abs(predicted / measured - 1) for predicted, measured in totals),
        "total_error": abs(sum(predicted - measured for predicted, measured in totals)) / latency_s,
    }


def predictors(samples: int, held_out: int) -> dict[str, Any]:
    """All predictors, on convs that they were not fitted to; by the thread's own time, so that other work does not
    count."""
    specs = random_convs(samples + held_out, seed=11)
    passes = [conv_seconds(specs, Executable, repeats=2, least_s=0.01, clock=time.thread_time) for _ in range(PASSES)]
    found = [Sample(spec, min(seconds)) for spec, *seconds in zip(specs, *passes, strict=True)]
    scores = compare(found[:samples], found[samples:])
    return {name: {"within_10pct": score.within_10pct, "mape": score.mape} for name, score in scores.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--net", nargs="*", default=["vgg16", "resnet50"])
    parser.add_argument("--rate", nargs="*", default=["100mbit", "1gbit"])
    parser.add_argument("--workers", nargs="*", type=int, default=[2, 4])
    parser.add_argument("--case", nargs="*", type=parse_case, help="NET:RATE:WORKERS, instead of all combinations")
    parser.add_argument("--merge", nargs="+", type=Path, help="measure nothing; merge the results of earlier runs")
    parser.add_argument("--repeats", type=int, default=8, help="inferences per case at least (default: 8)")
    parser.add_argument("--samples", type=int, default=900, help="convs to fit the predictors; 0: leave them out")
    parser.add_argument("--held-out", type=int, default=150)
    parser.add_argument("--keep", default="", help="a folder for each case's programs and the times of their steps")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--markdown", action="store_true", help="with --merge: the tables of docs/report/accuracy.md")
    options = parser.parse_args()
    try:
        found = merged(options.merge) if options.merge else measured(options)
    except FogconvError as error:
        print(f"bench.model_accuracy: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    if options.json:
        print(json.dumps(found))
        return
    if options.markdown:
        print("\n".join(markdown(found)))
        return
    if options.merge:
        for each in found["cases"]:
            show(each)
    for name, score in found["predictors"].items():
        print(f"{name:11s} within 10 %: {100 * score['within_10pct']:5.1f} %   MAPE {score['mape']:.1%}")


def measured(options: argparse.Namespace) -> dict[str, Any]:
    chosen = options.case
    if chosen is None:
        chosen = [(net, rate, workers) for net in options.net for rate in options.rate for workers in options.workers]
    cases = []
    for net, rate, workers in chosen:
        print(f"{net}, {rate}, {workers} workers", file=sys.stderr)
        cases.append(case(net, rate, workers, options.repeats, options.keep))
        if not options.json:
            show(cases[-1])
    if options.samples:
        print("predictors", file=sys.stderr)
    return {"cases": cases, "predictors": predictors(options.samples, options.held_out) if options.samples else {}}


def merged(files: list[Path]) -> dict[str, Any]:
    """The cases of all files, a later file's instead of an earlier one's. Raises InputError for other files."""
    cases: dict[tuple[str, str, int], Any] = {}
    scores: dict[str, Any] = {}
    for file in files:
        try:
            part = json.loads(file.read_bytes())
            cases |= {(each["net"], each["rate"], each["workers"]): each for each in part["cases"]}
            scores |= part["predictors"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"--merge {file}: it is not a result of bench.model_accuracy --json ({error})") from error
    return {"cases": list(cases.values()), "predictors": scores}


def parse_case(text: str) -> tuple[str, str, int]:
    net, rate, workers = text.split(":")
    return net, rate, int(workers)


def markdown(found: dict[str, Any]) -> Iterator[str]:
    heads = ["T_part", "n·T_tx", "T_edge", "n·T_rx", "T_join", "T_cld"]
    yield f"| net | links | workers | error per layer | of the total | by the formula alone | {' | '.join(heads)} |"
    yield "|" + "---|" * (6 + len(heads))
    for each in sorted(
        found["cases"], key=lambda each: (each["net"] != "vgg16", each["rate"] != "100mbit", each["workers"])
    ):
        terms = [f"{1e3 * sums['predicted_s']:.0f} / {1e3 * sums['measured_s']:.0f}" for sums in each["terms"].values()]
        formula = each["formula"]
        yield (
            f"| {each['net']} | {each['rate']} | {each['workers']} | {each['median_layer_error']:.1%} "
            f"| {each['total_error']:.1%} | {formula['median_layer_error']:.1%}, {formula['total_error']:.1%} "
            f"| {' | '.join(terms)} |"
        )
    yield ""
    yield "| predictor | within 10 % | mean absolute error |"
    yield "|---|---|---|"
    for name, score in found["predictors"].items():
        yield f"| {name} | {score['within_10pct']:.1%} | {score['mape']:.1%} |"


def show(found: dict[str, Any]) -> None:
    print(
        f"{found['net']}, {found['rate']}, {found['workers']} workers: "
        f"median layer error {found['median_layer_error']:.1%}, "
        f"total {found['total_error']:.1%} of {found['latency_s']:.3f} s "
        f"(the formula alone: {found['formula']['median_layer_error']:.1%}, {found['formula']['total_error']:.1%})"
    )
    for term, sums in found["terms"].items():
        print(
            f"  {term:8s} predicted {sums['predicted_s']:8.3f} s   measured {sums['measured_s']:8.3f} s"
            f"   (by the formula {sums['formula_s']:8.3f} s)"
        )


if __name__ == "__main__":
    main()
