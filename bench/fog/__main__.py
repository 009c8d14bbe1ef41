"""``python -m bench.fog``: one row of the table of speedups."""

from __future__ import annotations

import json
import signal
import sys
from types import FrameType
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from bench.fog.boards import BOARDS, ETHERNET
from bench.fog.run import Setup, run
from fogconv.cli.options.values import SIZE, Pair
from fogconv.errors import FogconvError, InputError
from fogconv.hardware.units import parse_bytes
from fogconv.planning.schemes import Scheme

Option = typer.Option


def main(
    net: Annotated[str, Option(help="Model: a name that `fogconv run` knows, or a file.")] = "resnet50",
    size: Annotated[Pair | None, Option(parser=SIZE, help="Picture size in pixels, such as 224 or 960x1280.")] = None,
    nodes: Annotated[int, Option(help="Nodes, the master included.")] = 5,
    cpu: Annotated[str, Option(help="Share of a core: one figure, or one per node (0.2,0.1,…).")] = "0.1",
    rate: Annotated[str | None, Option(help="Rate of every link, such as 100mbit; by default 1gbit.")] = None,
    like: Annotated[
        str | None,
        Option(
            help=f"Links with the ratio of wire to compute of a board: {', '.join(BOARDS)}. Their rate is {ETHERNET} × the "
            "board's published time ÷ one node's time in this run."
        ),
    ] = None,
    scheme: Annotated[Scheme, Option(help="Scheme of the plan.")] = Scheme.AUTO,
    transport: Annotated[str, Option(help="Transport: zmq or mpi.")] = "zmq",
    wire: Annotated[str, Option(help="fp32, fp16, bf16, zeros, lz4 or zstd.")] = "fp32",
    secure: Annotated[bool, Option("--secure", help="Encrypt with CURVE (ZeroMQ).")] = False,
    repeats: Annotated[int, Option(help="Inferences that are counted.")] = 12,
    rounds: Annotated[int, Option(help="Rounds into which they are divided, in turns with torch and one node.")] = 3,
    memory: Annotated[str, Option(help="Memory limit of every node, such as 900M.")] = "",
    honesty: Annotated[bool, Option(help="Check link and CPU rates first.")] = True,
    trace: Annotated[bool, Option("--trace", help="Report where the time went (in the JSON).")] = False,
    against: Annotated[str, Option(help="Other schemes to measure in turns, such as rows,depth,local.")] = "",
    baseline: Annotated[
        str,
        Option(help="One node's rival: torch, faster (of torch and ONNX Runtime), or usual: torch for classifiers."),
    ] = "usual",
    precision: Annotated[
        str, Option(help="fp32, int8 or auto: fogconv's, on all nodes and on one; the rival's is fp32.")
    ] = "fp32",
    picture: Annotated[
        bool,
        Option("--picture", help="Run an 8-bit picture, sent as `fogconv run` sends one, instead of noise in fp32."),
    ] = False,
    as_json: Annotated[bool, Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Measure fogconv on an emulated cluster against torch or ONNX Runtime on one of its nodes. Needs root and Linux."""
    console = Console(stderr=True)
    signal.signal(signal.SIGTERM, _terminated)  # the emulated cluster is removed at the end
    try:
        if rate is not None and like is not None:
            raise InputError(f"--rate {rate} and --like {like} both say how fast the links are; give one of them")
        setup = Setup(
            net,
            nodes,
            parse_shares(cpu),
            rate or "1gbit",
            scheme,
            transport,
            wire,  # type: ignore[arg-type]
            secure,
            repeats,
            rounds,
            parse_bytes(memory) or None,
            honesty,
            trace,
            tuple(filter(None, against.split(","))),
            None if size is None else size.both,
            baseline,  # type: ignore[arg-type]
            like,
            precision,
            picture,
        )
        result = run(setup, lambda line: console.print(f"[dim]{line}[/dim]", soft_wrap=True))
    except FogconvError as error:
        print(f"bench.fog: {error}", file=sys.stderr)
        raise typer.Exit(error.exit_code) from None
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    if as_json:
        print(json.dumps(result))
    else:
        Console().print(table(result))


def parse_shares(text: str) -> tuple[float, ...]:
    """ "0.1" or "0.2,0.1,0.1". Raises InputError."""
    try:
        return tuple(float(word) for word in text.split(","))
    except ValueError:
        raise InputError(f"--cpu {text!r} is not a share of a core; write 0.1, or one per node like 0.2,0.1,0.1") from None


def table(result: dict[str, Any]) -> Table:
    links = result["rate"] if result["like"] is None else f"{result['rate']} (like {result['like']['board']})"
    ran = f"{result['net']}, {result['precision']}"
    title = f"{ran}, {result['scheme']}, {result['nodes']} nodes of {result['cpu']} core, {links}"
    it = Table(title=title + (" — VOID: below the lower bound" if result["void"] else ""))
    it.add_column("what")
    it.add_column("", justify="right")
    for name, value, form in (
        (f"{result['baseline']} on one node", "torch_one_node_s", "{:.3f} s"),
        ("fogconv on one node", "fogconv_one_node_s", "{:.3f} s"),
        ("fogconv on all nodes", "fogconv_s", "{:.3f} s"),
        ("  as predicted", "predicted_s", "{:.3f} s"),
        ("  lower bound", "lower_bound_s", "{:.3f} s"),
        ("speedup over that", "speedup_vs_torch", "{:.2f}"),
        ("speedup over fogconv on one node", "speedup_vs_one_node", "{:.2f}"),
        ("bytes through the busiest card", "bytes_busiest_card", "{:,.0f}"),
        ("most memory of a worker", "max_worker_memory_mb", "{:.0f} MB"),
        ("  weights and maps, of one node's alone", "max_worker_footprint_share", "{:.0%}"),
        ("largest share of the weights", "max_weight_share", "{:.3f}"),
        ("largest error", "max_abs_error", "{:.2e}"),
        ("  of values up to", "max_abs_reference", "{:.3g}"),
    ):
        it.add_row(name, form.format(result[value]))
    if (like := result["like"]) is not None:
        it.add_row(f"one node's {like['net']}", f"{like['node_s']:.3f} s")
        it.add_row(f"  {like['title']}, published", f"{like['published_s']:.3f} s")
    for scheme, rival in result["against"].items():
        it.add_row(f"against {scheme}", f"{rival['fogconv_s']:.3f} s")
    if result["honesty"] is not None:
        for name in ("links", "cpu", "work", "slices"):
            it.add_row(f"honesty: {name}", " ".join(f"{ratio:.2f}" for ratio in result["honesty"][name]))
    return it


def _terminated(number: int, frame: FrameType | None) -> None:
    raise typer.Exit(128 + number)


if __name__ == "__main__":
    typer.run(main)
