"""Answers before all weights are there: how soon the first one comes, as a share of the time that the weights take.

    python -m bench.offload.arrival [--net vgg16] [--cpu 0.05,0.5] [--rate 17.5mbit] [--quick] [--json]

Two nodes of an emulated cluster (root). The slow node has all weights; they are sent to the other over the shaped link, in
the order of what each gains per byte, while inferences run back to back (`fogconv run --early`). Kernels are compiled, and
rates measured, beforehand, with another worker.
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

from bench.fog.__main__ import parse_shares
from bench.fog.conversation import Facts
from bench.fog.run import LOAD_TIMEOUT_S, PORT, RUN_TIMEOUT_S, calibrated, start
from bench.fog.shaping import Rate
from bench.fog.testbed import FogBed
from bench.offload.arrival_master import Job
from fogconv.cli.options.values import SIZE, Pair
from fogconv.errors import FogconvError, InputError
from fogconv.hardware.units import show_seconds

MOST_S = 2 * RUN_TIMEOUT_S


def measure(net: str, size: tuple[int, int] | None, cpu: tuple[float, ...], rate: Rate, say: Any) -> Facts:
    if len(cpu) != 2:
        raise InputError(f"--cpu: {len(cpu)} shares for two nodes: the slow one's and the other's, such as 0.05,0.5")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fogconv-arrival-")))
        bed = stack.enter_context(FogBed(2, "1gbit"))
        addresses = [f"tcp://{bed.nodes[1].address}:{port}" for port in (PORT, PORT + 1)]
        job = msgspec.json.encode(Job(net, size, *addresses, cpu, rate.bytes_per_s)).decode()
        program = Path(sys.executable).parent / "fogconv-worker"
        commands: list[list[object]] = [["-m", "bench.offload.arrival_master", folder / "master", job]]
        for address in addresses:
            worker = [program, "--bind", address, "--threads", 1, "--insecure"]
            bed.popen(1, list(map(str, worker)), stdout=sys.stderr, stderr=sys.stderr)
        master = start(stack, bed, folder, "master", commands)
        say("compiling, and measuring rates under the quotas")
        master.receive(LOAD_TIMEOUT_S)
        planned = calibrated(bed, master, cpu)
        bed.set_rates(str(rate))
        bed.set_cpu(cpu)
        say(f"sending weights over {rate}, {len(planned['increments']) - 1} parts, and inferring meanwhile")
        found = master.do("early", MOST_S)
        bed.set_cpu(None)
    return summary(net, cpu, rate, planned["increments"], found)


def summary(net: str, cpu: tuple[float, ...], rate: Rate, increments: list[list[float]], found: Facts) -> Facts:
    """``share``: the first answer's time as a share of that until all weights were there."""
    first_s, all_s = found["answers"][0][0], found["landed_s"][-1]
    return {
        "net": net,
        "cpu": list(cpu),
        "bandwidth": str(rate),
        "first_answer_s": first_s,
        "all_there_s": all_s,
        "share": first_s / all_s,
        "answers_before_all": sum(at < all_s for at, _, _ in found["answers"]),
        "predicted": [{"inference_s": seconds, "new_layers": layers} for seconds, layers in increments],
        "landed_s": found["landed_s"][1:],
        "answers": [{"at_s": at, "latency_s": latency, "layers_away": away} for at, latency, away in found["answers"]],
        "max_relative_difference": found["difference"],
    }


def turning_points(answers: list[Facts]) -> list[Facts]:
    """The first answer of each division of work, and the last of all."""
    away = [None, *(each["layers_away"] for each in answers)]
    first = [each for each, before in zip(answers, away, strict=False) if each["layers_away"] != before]
    return first if first[-1] is answers[-1] else [*first, answers[-1]]


def show(found: Facts) -> None:
    print(f"{found['net']}, nodes of {found['cpu'][0]:g} and {found['cpu'][1]:g} core, {found['bandwidth']}")
    print("at           took      layers on the other node")
    for each in turning_points(found["answers"]):
        print(f"{show_seconds(each['at_s']):<12} {show_seconds(each['latency_s']):<9} {each['layers_away']}")
    print(
        f"first answer after {show_seconds(found['first_answer_s'])}, all weights there after "
        f"{show_seconds(found['all_there_s'])}: a share of {found['share']:.2f}; answers differ by at most "
        f"{found['max_relative_difference']:.1e} of the largest value"
    )


def main(
    net: str = "vgg16",
    size: Annotated[Pair | None, typer.Option(parser=SIZE, help="Picture size in pixels.")] = None,
    cpu: Annotated[str, typer.Option(help="Shares of a core: the slow node's, the other's.")] = "0.05,0.5",
    rate: Annotated[str, typer.Option(help="Rate of the link.")] = "17.5mbit",
    quick: Annotated[bool, typer.Option("--quick", help="resnet18 on small pictures.")] = False,
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """Measure how soon the first answer comes while weights are on their way."""
    chosen = ("resnet18", (64, 64)) if quick else (net, None if size is None else size.both)
    try:
        found = measure(*chosen, parse_shares(cpu), Rate.parse(rate), lambda line: print(line, file=sys.stderr))
    except FogconvError as error:
        print(f"bench.offload.arrival: {error}", file=sys.stderr)
        raise typer.Exit(error.exit_code) from None
    if as_json:
        print(json.dumps(found, indent=1))
    else:
        show(found)


if __name__ == "__main__":
    typer.run(main)
