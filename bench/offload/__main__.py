"""Layer offload from a slow node to a faster one: measured and predicted seconds of every cut, over several links.

    python -m bench.offload [--net vgg16] [--cpu 0.05,0.5] [--rates 17.5mbit,…] [--memory 740M] [--quick] [--json]

Two nodes of an emulated cluster (root: network namespaces and control groups). All weights are in place before the link is
shaped. k is the number of slices that the slow node computes: 0 sends the picture, all of them send nothing. Cuts are
measured in turns; one that is predicted to take over 10 s once, over 60 s not at all (≈). With --memory the slow node reads
the weights beyond its limit from a file, at --read-rate.
"""

from __future__ import annotations

import json
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from bench.fog.conversation import Contender
from bench.fog.run import LOAD_TIMEOUT_S, PORT, RUN_TIMEOUT_S, calibrated, start
from bench.fog.shaping import Rate
from bench.fog.testbed import FogBed
from bench.offload.curves import Point, as_curve, curve_json, turns
from bench.offload.master import Job
from fogconv.choice.cuts import Cut
from fogconv.choice.cuts_plot import draw
from fogconv.cli.options.values import BANDWIDTH, MEMORY
from fogconv.hardware.units import bandwidth_bytes_per_s, show_seconds
from fogconv.ir.plan import Plan

RATES = "17.5mbit,1.75mbit,175kbit,17.5kbit"
QUICK_RATES = "17.5mbit,1.75mbit"
ROUNDS, QUICK_ROUNDS = 11, 3


def measure(
    net: str, cpu: tuple[float, ...], rates: list[str], rounds: int, memory: int, read_rate: float, say: Any
) -> tuple[dict[str, Any], list[list[Point]]]:
    """The result, and the points of each curve."""
    found: list[dict[str, Any]] = []
    all_points: list[list[Point]] = []
    worst = 0.0
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fogconv-offload-")))
        bed = stack.enter_context(FogBed(2, "1gbit"))
        address = f"tcp://{bed.nodes[1].address}:{PORT}"
        job = msgspec.json.encode(Job(net, address, cpu, memory, read_rate)).decode()
        worker = [Path(sys.executable).parent / "python", "-m", "fogconv", "worker", "--bind", address, "--threads", 1]
        commands = [[*worker, "--insecure"], ["-m", "bench.offload.master", folder / "master", job]]
        master: Contender = start(stack, bed, folder, "master", commands)
        say("loading, and measuring rates under the quotas")
        master.receive(LOAD_TIMEOUT_S)
        facts = calibrated(bed, master, cpu)
        for text in rates:
            rate = Rate.parse(text)
            predicted = master.do({"predict": rate.bytes_per_s}, RUN_TIMEOUT_S)
            for node in (0, 1):
                bed.set_rate(node, text)
            seconds: dict[int, list[float]] = {k: [] for k in range(len(predicted["seconds"]))}
            bed.set_cpu(cpu)
            for k in turns(predicted["seconds"], 2)[1]:  # the first run over a link is not counted
                master.do({"cut": k}, RUN_TIMEOUT_S)
            for number, cuts in enumerate(turns(predicted["seconds"], rounds)):
                say(f"{rate}: round {number + 1} of {rounds}, cuts {', '.join(map(str, cuts))}")
                for k in cuts:
                    run = master.do({"cut": k}, RUN_TIMEOUT_S)
                    seconds[k].append(run["seconds"])
                    worst = max(worst, run["difference"])
            bed.set_cpu(None)
            points = [
                Point(k, predicted["seconds"][k], tuple(each))
                for k, each in seconds.items()
                if predicted["seconds"][k] is not None
            ]
            all_points.append(points)
            found.append(curve_json(str(rate), points, predicted["k_chosen"]))
    result = {"net": net, "cpu": list(cpu), "slices": facts["slices"], "memory_bytes": memory or None}
    return result | {"max_relative_difference": worst, "curves": found}, all_points


def show(found: dict[str, Any]) -> None:
    curves = found["curves"]
    print(f"{found['net']}: {found['slices']} slices, nodes of {' and '.join(map(str, found['cpu']))} core")
    print("k  " + "".join(f"{each['bandwidth']:>22}" for each in curves))
    for k in range(found["slices"] + 1):
        cells = []
        for each in curves:
            at = next((cut for cut in each["cuts"] if cut["k"] == k), None)
            if at is None:
                cells.append("does not fit")
                continue
            mark = "*" if k == each["k_best"] else "+" if k == each["k_chosen"] else " "
            measured = f"≈ {show_seconds(at['predicted_s'])}" if at["measured_s"] is None else show_seconds(at["measured_s"])
            cells.append(f"{measured} ({show_seconds(at['predicted_s'])}){mark}")
        print(f"{k}  " + "".join(f"{cell:>22}" for cell in cells))
    print("measured (predicted); *: best, +: chosen, where that is another")
    for each in curves:
        chosen = f"{each['bandwidth']}: chosen k = {each['k_chosen']}, best {each['k_best']}"
        print(f"{chosen}, {each['speedup']:.2f} × the slow node")


def main(
    net: str = "vgg16",
    cpu: Annotated[str, typer.Option(help="Shares of a core: the slow node's, the other's.")] = "0.05,0.5",
    rates: Annotated[str | None, typer.Option(help="Rates of the link, from the fastest on.")] = None,
    memory: Annotated[int | None, typer.Option(parser=MEMORY, help="The slow node's memory limit.")] = None,
    read_rate: Annotated[str, typer.Option(parser=BANDWIDTH, help="Of the file that weights are read from.")] = "20MB/s",
    rounds: Annotated[int | None, typer.Option(help="Runs of each cut under 10 s.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Two links, three rounds.")] = False,
    plot: Annotated[Path | None, typer.Option(help="Draw the curves into this file: .png, .svg or .html.")] = None,
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    shares = tuple(float(share) for share in cpu.split(","))
    links = (rates or (QUICK_RATES if quick else RATES)).split(",")
    count = rounds or (QUICK_ROUNDS if quick else ROUNDS)
    pace = bandwidth_bytes_per_s(read_rate)

    def say(line: str) -> None:
        print(line, file=sys.stderr)

    found, points = measure(net, shares, links, count, memory or 0, pace if memory else 0.0, say)
    if plot is not None:
        nothing = Plan(net, 2, "offload", ())
        labels = [Cut(f"slice {k}" if k else "", 0, 0.0, nothing) for k in range(found["slices"] + 1)]
        rates_s = [Rate.parse(text).bytes_per_s for text in links]
        draw(plot, net, labels, [as_curve(rate, each) for rate, each in zip(rates_s, points, strict=True)])
    if as_json:
        print(json.dumps(found, indent=1))
    else:
        show(found)


if __name__ == "__main__":
    typer.run(main)
