"""Is the model right? Predicted against measured, layer by layer, on the emulated cluster.

    python -m bench.model_accuracy [--json] [--net vgg16 …] [--rate 100mbit …] [--workers 2 …]

Nodes of 0.2 core, every conv distributed (the paper's star), inferences back to back, quotas applied after loading and
compiling. And how well each predictor tells the time of convs that it did not learn from. Needs root.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec

from bench.accuracy_master import CPU, LOAD, MEASURE, Task
from bench.fog.bed import FogBed
from bench.fog.run import start
from fogconv.cluster.interpreter import Executable
from fogconv.cluster.measure import conv_seconds
from fogconv.errors import FogconvError
from fogconv.predictors import Sample, compare, random_convs

TERMS = ("part_s", "tx_s", "edge_s", "rx_s", "join_s", "total_s")
PORT = 5555
TIMEOUT_S = 900.0


def case(net: str, rate: str, workers: int, repeats: int) -> dict[str, Any]:
    """One net on one cluster: the median error over its distributed layers, and that of their sum."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fogconv-accuracy-")))
        bed = stack.enter_context(FogBed(workers + 1, rate))
        addresses = [f"tcp://{node.address}:{PORT}" for node in bed.nodes[1:]]
        task = Task(net, ",".join(addresses))
        serve: list[list[object]] = [
            [sys.executable, "-m", "fogconv.cli.worker", "--bind", address, "--threads", 1, "--insecure"]
            for address in addresses
        ]
        drive: list[object] = ["-m", "bench.accuracy_master", folder / "master", msgspec.json.encode(task).decode()]
        master = start(stack, bed, folder, "master", [*serve, drive])
        master.hear(TIMEOUT_S)
        shares = (CPU,) * (workers + 1)
        bed.set_cpu(shares)
        measured = master.run(MEASURE, TIMEOUT_S)
        bed.set_cpu(None)
        master.run(LOAD, TIMEOUT_S)
        bed.set_cpu(shares)
        runs = master.run(repeats + 1, TIMEOUT_S)["runs"][1:]
        bed.set_cpu(None)
    return summary(net, rate, workers, runs, measured)


def summary(net: str, rate: str, workers: int, runs: list[Any], calibrated: dict[str, Any]) -> dict[str, Any]:
    layers = []
    for index, layer in enumerate(runs[0]["layers"]):
        # The mean: where in its quota's period a node begins decides a few ms, and the model predicts the average of that.
        measured = {term: statistics.fmean(run["layers"][index]["measured"][term] for run in runs) for term in TERMS}
        error = layer["predicted"]["total_s"] / measured["total_s"] - 1
        layers.append(layer | {"measured": measured, "error": error})
    terms = {
        term: {
            "predicted_s": sum(layer["predicted"][term] for layer in layers),
            "measured_s": sum(layer["measured"][term] for layer in layers),
        }
        for term in TERMS
    }
    latency = statistics.fmean(run["latency_s"] for run in runs)
    difference = terms["total_s"]["predicted_s"] - terms["total_s"]["measured_s"]
    return {
        "net": net,
        "rate": rate,
        "workers": workers,
        "median_layer_error": statistics.median(abs(layer["error"]) for layer in layers),
        "total_error": abs(difference) / latency,
        "latency_s": latency,
        "terms": terms,
        "calibrated": calibrated,
        "layers": layers,
    }


def predictors(samples: int, held_out: int) -> dict[str, Any]:
    """Every predictor, on convs that it did not learn from; by the thread's own time, so that other work does not count."""
    specs = random_convs(samples + held_out, seed=11)
    passes = [conv_seconds(specs, Executable, repeats=2, least_s=0.01, clock=time.thread_time) for _ in range(2)]
    found = [Sample(spec, min(seconds)) for spec, *seconds in zip(specs, *passes, strict=True)]
    scores = compare(found[:samples], found[samples:])
    return {name: {"within_10pct": score.within_10pct, "mape": score.mape} for name, score in scores.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--net", nargs="*", default=["vgg16", "resnet50"])
    parser.add_argument("--rate", nargs="*", default=["100mbit", "1gbit"])
    parser.add_argument("--workers", nargs="*", type=int, default=[2, 4])
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--samples", type=int, default=900)
    parser.add_argument("--held-out", type=int, default=150)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    try:
        cases = []
        for net in options.net:
            for rate in options.rate:
                for workers in options.workers:
                    print(f"{net}, {rate}, {workers} workers", file=sys.stderr)
                    cases.append(case(net, rate, workers, options.repeats))
                    if not options.json:
                        show(cases[-1])
        print("predictors", file=sys.stderr)
        scores = predictors(options.samples, options.held_out) if options.samples else {}
    except FogconvError as error:
        print(f"bench.model_accuracy: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    if options.json:
        print(json.dumps({"cases": cases, "predictors": scores}))
        return
    for name, score in scores.items():
        print(f"{name:11s} within 10 %: {100 * score['within_10pct']:5.1f} %   MAPE {score['mape']:.1%}")


def show(found: dict[str, Any]) -> None:
    print(
        f"{found['net']}, {found['rate']}, {found['workers']} workers: "
        f"median layer error {found['median_layer_error']:.1%}, "
        f"total {found['total_error']:.1%} of {found['latency_s']:.3f} s"
    )
    for term, sums in found["terms"].items():
        print(f"  {term:8s} predicted {sums['predicted_s']:8.3f} s   measured {sums['measured_s']:8.3f} s")


if __name__ == "__main__":
    main()
