"""Streams of frames: frames/s of a cluster over those of the same nodes, each with whole frames alone at the same time.

    python -m bench.streams [--quick] [--json] [--keep FILE] [--nets vgg16,resnet50] [--nodes 2,5,8] [--limited 5,8]

Nodes of an emulated cluster (root: network namespaces and control groups) with links like a Raspberry Pi 4's. The plan is
that of --objective throughput. The limited nodes have a third of what packed weights and maps take, and are compared with as
many nodes without a limit (one is measured). Streams and nodes alone run in turns; ratios are medians over the rounds. With
--keep, cases that are in the file are not measured again.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from bench.streams.case import Setup, measure
from fogconv.errors import FogconvError, InputError


def setups(nets: list[str], nodes: list[int], limited: list[int], slowed: int, rounds: int, frames: int) -> list[Setup]:
    free = [Setup(net, count, slowed=count == slowed, rounds=rounds, frames=frames) for net in nets for count in nodes]
    return free + [Setup(net, count, True, rounds=rounds, frames=frames) for net in nets for count in limited]


def kept(path: Path | None) -> list[dict[str, Any]]:
    """The cases of a file. Raises InputError for another file."""
    if path is None or not path.exists():
        return []
    try:
        found = json.loads(path.read_text())["cases"]
        [(case["net"], case["nodes"], case["memory_limited"]) for case in found]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"--keep {path}: not a file of this bench: {error}") from error
    return list(found)


def counts(text: str) -> list[int]:
    try:
        return [int(each) for each in text.split(",") if each]
    except ValueError:
        raise InputError(f"{text!r}: write numbers of nodes such as 2,5,8") from None


def show(cases: list[dict[str, Any]]) -> None:
    print(f"{'net':<12}{'nodes':>6}{'memory':>9}{'frames/s':>10}{'predicted':>11}{'over alone':>12}{'slowed':>8}  plan")
    for case in cases:
        memory = "a third" if case["memory_limited"] else "free"
        slowed = "" if case["slowed_ratio"] is None else f"{case['slowed_ratio']:.2f}"
        print(
            f"{case['net']:<12}{case['nodes']:>6}{memory:>9}{case['frames_per_s']:>10.3f}"
            f"{case['predicted_frames_per_s']:>11.3f}{case['frames_ratio']:>12.3f}{slowed:>8}  {case['scheme']}, "
            f"{len(case['lanes'])} lanes"
        )


def main(
    nets: Annotated[str | None, typer.Option(help="Networks.")] = None,
    nodes: Annotated[str | None, typer.Option(help="Numbers of nodes.")] = None,
    limited: Annotated[str | None, typer.Option(help="Numbers of nodes with a third of the memory.")] = None,
    slowed: Annotated[int, typer.Option(help="The cluster in which one node is slowed in a further stream; 0: none.")] = 5,
    rounds: Annotated[int | None, typer.Option(help="Rounds.")] = None,
    frames: Annotated[int | None, typer.Option(help="Frames per node in a round.")] = None,
    keep: Annotated[Path | None, typer.Option(help="A file that keeps the cases, as JSON.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="resnet50 on 2 and 5 nodes, one round.")] = False,
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    try:
        wanted = setups(
            (nets or ("resnet50" if quick else "vgg16,resnet50")).split(","),
            counts(nodes if nodes is not None else "2,5" if quick else "2,5,8"),
            counts(limited if limited is not None else "" if quick else "5,8"),
            slowed,
            rounds or (1 if quick else 5),
            frames or (6 if quick else 12),
        )
        cases = kept(keep)
        done = {(case["net"], case["nodes"], case["memory_limited"]) for case in cases}
        for setup in wanted:
            if (setup.net, setup.nodes, setup.memory_limited) in done:
                continue
            say(f"{setup.net} on {setup.nodes} nodes{', memory limited' if setup.memory_limited else ''}")
            cases.append(measure(setup, say))
            if keep is not None:
                keep.write_text(json.dumps({"cases": cases}, indent=1) + "\n")
    except FogconvError as error:
        print(f"bench.streams: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    if as_json:
        print(json.dumps({"cases": cases}, indent=1))
    else:
        show(cases)


if __name__ == "__main__":
    typer.run(main)
