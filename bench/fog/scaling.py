"""Speedup by the number of nodes: all schemes in turns in one emulated cluster, for each net and size.

    python -m bench.fog.scaling --keep docs/report/scaling.json --out docs/report/scaling.png

Measurements are kept in the JSON file and not repeated, so that a long experiment can be done in pieces (``--most 1``),
and the picture drawn again without measuring.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console

from bench.fog.run import Setup, run
from fogconv.errors import FogconvError, InputError
from fogconv.planning.schemes import ONE_FRAME

NETS = "vgg16,resnet50"
NODES = "2,3,5,9"
LOOKS = {"auto": ("#1b6e3c", "o"), "rows": ("#3f7fbf", "s"), "depth": ("#c0571b", "^"), "star": ("#7a4f9a", "D")}
"""Colour and mark."""
OTHER_LOOK = ("#777777", "x")


class Point(msgspec.Struct, frozen=True):
    """One net on so many nodes. ``seconds``: median per scheme; ``lower_bound_s`` is the fastest scheme's."""

    net: str
    nodes: int
    cpu: float
    rate: str
    torch_one_node_s: float
    fogconv_one_node_s: float
    lower_bound_s: float
    seconds: dict[str, float]

    def speedup(self, scheme: str) -> float:
        """The speedup over torch on one node."""
        return self.torch_one_node_s / self.seconds[scheme]

    @property
    def bound(self) -> float:
        """The speedup over torch that the lower bound allows."""
        return self.torch_one_node_s / self.lower_bound_s


@dataclass(frozen=True, slots=True)
class Series:
    """The measurements so far, in a file."""

    path: Path

    def points(self) -> list[Point]:
        """The measured points. Raises InputError for another file."""
        if not self.path.exists():
            return []
        try:
            return msgspec.json.decode(self.path.read_bytes(), type=list[Point])
        except msgspec.DecodeError as error:
            raise InputError(f"--keep {self.path}: not a series of measurements: {error}") from error

    def add(self, point: Point) -> None:
        points = sorted([*self.points(), point], key=lambda each: (each.net, each.nodes))
        self.path.write_bytes(msgspec.json.format(msgspec.json.encode(points), indent=1) + b"\n")


def measure(net: str, nodes: int, cpu: float, rate: str, say: Any) -> Point:
    first, *others = ONE_FRAME
    setup = Setup(
        net,
        nodes,
        (cpu,),
        rate,
        first,
        repeats=4,
        rounds=1,
        honesty=False,
        against=tuple(others),
    )
    result = run(setup, say)
    seconds = {first: result["fogconv_s"]} | {scheme: it["fogconv_s"] for scheme, it in result["against"].items()}
    return Point(
        net,
        nodes,
        cpu,
        rate,
        result["torch_one_node_s"],
        result["fogconv_one_node_s"],
        result["lower_bound_s"],
        seconds,
    )


def draw(points: Sequence[Point], out: Path) -> None:
    """One panel per net: speedup over torch on one node against nodes. Raises InputError where it can't be written."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    nets = list(dict.fromkeys(point.net for point in points))
    figure = Figure(figsize=(1 + 4.6 * len(nets), 4.3), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(nets), squeeze=False)[0]
    for axes, net in zip(panels, nets, strict=True):
        mine = sorted((point for point in points if point.net == net), key=lambda point: point.nodes)
        nodes = [point.nodes for point in mine]
        axes.plot(nodes, [point.bound for point in mine], color="#555555", ls="--", lw=1.2, label="lower bound on the time")
        for scheme in reversed([each for each in ONE_FRAME if all(each in point.seconds for point in mine)]):
            colour, mark = LOOKS.get(scheme, OTHER_LOOK)
            axes.plot(
                nodes,
                [point.speedup(scheme) for point in mine],
                color=colour,
                marker=mark,
                ms=5,
                lw=2.2 if scheme == "auto" else 1.4,
                label=scheme,
            )
        one = [point.torch_one_node_s / point.fogconv_one_node_s for point in mine]
        axes.axhline(sum(one) / len(one), color="#999999", lw=1, ls=":", label="fogconv on one node")
        axes.set_title(net, loc="left")
        axes.set_xticks(nodes)
        axes.set_xlabel(f"nodes of {mine[0].cpu:g} core, {mine[0].rate}/s links")
        axes.set_ylim(bottom=0)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#e4e4e4", lw=0.6)
        axes.set_axisbelow(True)
    panels[0].set_ylabel("speedup over torch on one node")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles[::-1], labels[::-1], loc="outside lower center", ncols=6, frameon=False, fontsize=9)
    try:
        figure.savefig(out, dpi=130)
    except (OSError, ValueError) as error:
        raise InputError(f"--out {out}: can't be written: {error}") from error


def missing(points: Sequence[Point], nets: Sequence[str], nodes: Sequence[int]) -> list[tuple[str, int]]:
    """The points that are not measured yet, the smallest clusters first."""
    known = {(point.net, point.nodes) for point in points}
    return [(net, count) for count in sorted(nodes) for net in nets if (net, count) not in known]


def main(
    nets: Annotated[str, typer.Option(help="Models.")] = NETS,
    nodes: Annotated[str, typer.Option(help="Sizes of the cluster, the master included.")] = NODES,
    cpu: Annotated[float, typer.Option(help="Share of a core of each node.")] = 0.1,
    rate: Annotated[str, typer.Option(help="Rate of every link.")] = "1gbit",
    keep: Annotated[Path, typer.Option(help="JSON file of the measurements.")] = Path("docs/report/scaling.json"),
    out: Annotated[Path, typer.Option(help="The picture (.png, .svg, .pdf).")] = Path("docs/report/scaling.png"),
    most: Annotated[int, typer.Option(help="The most points to measure; 0 only draws.")] = 1000,
) -> None:
    """Measure what is missing on emulated clusters, and draw. Needs root and Linux to measure."""
    console = Console(stderr=True)
    series = Series(keep)
    try:
        sizes = [int(word) for word in nodes.split(",")]
        for net, count in missing(series.points(), nets.split(","), sizes)[:most]:
            console.print(f"{net} on {count} nodes")
            series.add(measure(net, count, cpu, rate, lambda line: console.print(f"[dim]{line}[/dim]")))
        draw(series.points(), out)
    except ValueError:
        print(f"bench.fog.scaling: --nodes {nodes!r}: write sizes like 2,3,5,9", file=sys.stderr)
        raise typer.Exit(2) from None
    except FogconvError as error:
        print(f"bench.fog.scaling: {error}", file=sys.stderr)
        raise typer.Exit(error.exit_code) from None
    print(json.dumps({"points": len(series.points()), "picture": str(out)}))


if __name__ == "__main__":
    typer.run(main)
