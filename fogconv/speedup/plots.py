"""Figures of the speedup model, with matplotlib: .png, .svg or .html (the SVG in a page)."""

from __future__ import annotations

import html
import io
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fogconv.errors import DependencyError, InputError, with_extra
from fogconv.hardware.units import show_bandwidth, show_rate, show_seconds
from fogconv.speedup import broadcast
from fogconv.speedup.calculator import Media, Question, Report, SweepPoint, curve, net_at, net_curve, sweep
from fogconv.speedup.conv_tables import NamedConv
from fogconv.speedup.model import most_gain, s_paper
from fogconv.speedup.trigger import master_rates

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SUFFIXES = (".png", ".svg", ".html")
MOST_WORKERS = 64

BLUE, ORANGE, GREEN, PURPLE, GREY = "#0b6fa4", "#d1570b", "#2e7d32", "#7b3fa0", "#777777"
"""Different in print and for colour-blind readers; the figures never rely on colour alone."""


def draw(
    path: Path,
    name: str,
    layers: Sequence[NamedConv],
    report: Report,
    swept: tuple[str, Sequence[SweepPoint]] | None = None,
) -> None:
    """Speedup against n, S of every layer, break-even bandwidths; then the sweep, where there is one.

    Raises InputError for another suffix or a file that can't be written, DependencyError without matplotlib.
    """
    if path.suffix not in SUFFIXES:
        raise InputError(f"--plot {path}: the file's name ends in {', '.join(SUFFIXES)}")
    question = report.question
    panels: list[Callable[[Axes], None]] = []
    panels.append(lambda axes: _against_n(axes, name, layers, question))
    if len(layers) > 1:
        panels.append(lambda axes: _per_layer(axes, report))
        panels.append(lambda axes: _break_even(axes, report))
    else:
        panels.append(lambda axes: _over_depth(axes, layers[0], question))
        if swept is None or swept[0] != "bandwidth":
            here = 2 / sum(question.topology.card(0))
            points = sweep(layers, question, "bandwidth", here / 32, here * 32)
            panels.append(lambda axes: _swept(axes, "bandwidth", points, report))
    if swept is not None:
        panels.append(lambda axes: _swept(axes, *swept, report))
    figure = new_figure(9.5, 3.6 * len(panels))
    for axes, panel in zip(figure.subplots(len(panels), 1), panels, strict=True):
        panel(axes)
    save(figure, path, name)


def new_figure(width: float, height: float) -> Figure:
    """Inches. Raises DependencyError without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise DependencyError(f"matplotlib is not installed: {with_extra('model')}") from error
    return Figure(figsize=(width, height), layout="constrained")


def save(figure: Figure, path: Path, title: str) -> None:
    """Raises InputError if the file can't be written."""
    try:
        if path.suffix == ".html":
            drawn = io.StringIO()
            figure.savefig(drawn, format="svg")
            svg = drawn.getvalue()
            body = svg[svg.index("<svg") :]
            page = (
                f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
                "<style>body{margin:2em;font-family:sans-serif}svg{max-width:100%;height:auto}</style></head>\n"
                f"<body><h1>{html.escape(title)}</h1>\n{body}</body></html>\n"
            )
            path.write_text(page, encoding="utf-8")
        else:
            figure.savefig(path, format=path.suffix[1:], dpi=130)
    except OSError as error:
        raise InputError(f"{path}: can't be written: {error.strerror or error}") from error


def _against_n(axes: Axes, name: str, layers: Sequence[NamedConv], question: Question) -> None:
    """Speedup over 1 … n workers with its upper bounds."""
    everywhere = question.media is Media.BROADCAST
    count = _counts(everywhere)
    if len(layers) > 1:
        net = net_curve(layers, question, count[-1]) if not everywhere else [net_at(layers, question, n) for n in count]
        axes.plot(count, net, color=BLUE, label="whole net: the sum of its layers, each where it is faster")
        deepest = max(layers, key=lambda layer: s_paper(layer.spec, master_rates(question.topology, layer.spec)))
    else:
        deepest = layers[0]
    spec, rates = deepest.spec, master_rates(question.topology, deepest.spec)
    master = question.master_computes
    what = f"{deepest.name}: " if len(layers) > 1 else ""
    if everywhere:
        ratios = [broadcast.estimate(spec, rates, n) for n in count]
        label = "T_local/T_cld, broadcast"
    else:
        ratios = curve(spec, rates, count[-1], master_computes=master)
        label = "T_local/T_cld, best of 1 … n"
        most = [most_gain(spec, rates, n, master_computes=master) for n in count]
        axes.plot(count, most, color=PURPLE, linestyle=":", label=f"{what}at most (unicast, 1 … n)")
    axes.plot(count, ratios, color=ORANGE, label=f"{what}{label}")
    bound = s_paper(spec, rates)
    axes.axhline(bound, color=GREEN, linestyle="--", label=f"{what}S = {bound:.2f}, the paper's bound")
    axes.axhline(1, color=GREY, linewidth=0.8)
    axes.axvline(question.workers, color=GREY, linestyle="-.", linewidth=0.8, label=f"n = {question.workers}")
    _decorate(axes, f"{name}: speedup over workers", "remote workers n", "speedup")
    axes.set_xscale("log", base=10 if everywhere else 2)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}" if value >= 1 else f"{value:g}")
    axes.set_ylim(0, max(1.2, bound * 1.15))


def _counts(everywhere: bool) -> list[int]:
    """On a broadcast medium up to where T_local/T_cld meets S, elsewhere up to MOST_WORKERS."""
    if not everywhere:
        return list(range(1, MOST_WORKERS + 1))
    return sorted({round(broadcast.CROWD ** (step / 120)) for step in range(121)})


def _per_layer(axes: Axes, report: Report) -> None:
    threshold = report.question.threshold
    index = range(len(report.rows))
    paper = [max(row.decision.bound_s_paper, 1e-4) for row in report.rows]
    star = [max(row.decision.bound_s_star, 1e-4) for row in report.rows]
    ratio = [max(row.decision.estimate, 1e-4) for row in report.rows]
    axes.bar(index, paper, color=[BLUE if row.decision.distribute else "#b9d3e2" for row in report.rows], label="S")
    axes.plot(index, star, color=PURPLE, marker="_", linestyle="", markersize=8, label="S*")
    axes.plot(index, ratio, color=ORANGE, marker=".", linestyle="", label="T_local/T_cld")
    if 0 < threshold < math.inf:
        axes.axhline(threshold, color=GREY, linestyle="--", label=f"threshold {threshold:g}")
    axes.set_yscale("log")
    _decorate(axes, "Per layer (dark: distributed)", "", "speedup")
    _layer_ticks(axes, report)


def _over_depth(axes: Axes, layer: NamedConv, question: Question) -> None:
    """S against the depth c = f, for the layer's kernel and size."""
    spec = layer.spec
    depths = [8 * 2 ** (step / 4) for step in range(33)]
    found = []
    for depth in depths:
        whole = round(depth) * spec.groups
        found.append(
            type(spec)(
                whole, whole, spec.height, spec.width, spec.kernel, spec.stride, spec.padding, spec.dilation, spec.groups
            )
        )
    rates = master_rates(question.topology, spec)
    n, master = question.workers, question.master_computes
    ratios = [curve(one, rates, n, master_computes=master, media=question.media)[-1] for one in found]
    axes.plot(depths, [s_paper(one, rates) for one in found], color=GREEN, linestyle="--", label="S")
    if question.media is Media.UNICAST:
        most = [most_gain(one, rates, n, master_computes=master) for one in found]
        axes.plot(depths, most, color=PURPLE, linestyle=":", label=f"at most, up to {n} workers")
    axes.plot(depths, ratios, color=ORANGE, label=f"T_local/T_cld, up to {n} workers")
    axes.axhline(1, color=GREY, linewidth=0.8)
    axes.axvline(spec.in_channels / spec.groups, color=GREY, linestyle="-.", linewidth=0.8, label="this layer's c")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    _decorate(axes, "Over the depth c = f", "channels (per group)", "speedup")


def _break_even(axes: Axes, report: Report) -> None:
    index = range(len(report.rows))
    needed = [row.break_even_bytes_per_s for row in report.rows]
    axes.plot(
        [i for i in index if needed[i]],
        [value * 8 for value in needed if value],
        color=BLUE,
        marker="o",
        linestyle="",
        label="bandwidth from which on it pays",
    )
    never = [i for i in index if not needed[i]]
    here = 8 / (sum(report.question.topology.card(0)) / 2)
    if never:  # at the upper edge, whatever the scale: no bandwidth is enough
        edge = axes.get_xaxis_transform()
        axes.plot(never, [0.97] * len(never), color=ORANGE, marker="x", linestyle="", transform=edge, label="never pays")
    axes.axhline(here, color=GREY, linestyle="--", label=f"here: {show_bandwidth(here / 8)}")
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(lambda value, _: show_bandwidth(value / 8))
    axes.yaxis.set_minor_formatter(lambda value, _: "")
    _decorate(axes, f"Break-even bandwidth, {report.question.workers} workers", "", "")
    _layer_ticks(axes, report)


def _swept(axes: Axes, name: str, points: Sequence[SweepPoint], report: Report) -> None:
    one = len(report.rows) == 1
    show: dict[str, Any] = {"bandwidth": lambda bits: show_bandwidth(bits / 8), "rate": show_rate, "latency": show_seconds}
    # Bandwidths in bits, so that the axis has round figures.
    scale = 8 if name == "bandwidth" else 1
    values = [point.value * scale for point in points]
    what = "" if one else ", best layer"
    axes.plot(values, [point.bound_s_paper for point in points], color=GREEN, linestyle="--", label=f"S{what}")
    axes.plot(values, [point.bound_gain for point in points], color=PURPLE, linestyle=":", label=f"at most{what}")
    axes.plot(values, [point.estimate for point in points], color=ORANGE, label=f"T_local/T_cld{what}")
    if not one:
        axes.plot(values, [point.speedup for point in points], color="black", label="total by the rule")
    axes.axhline(1, color=GREY, linewidth=0.8)
    if name == "bandwidth":
        here = 16 / sum(report.question.topology.card(0))
        axes.axvline(here, color=GREY, linestyle="-.", linewidth=0.8, label=f"here: {show[name](here)}")
        even = report.rows[0].break_even_bytes_per_s
        if one and even:
            axes.plot([even * 8], [1], color=BLUE, marker="o", linestyle="", label=f"break-even: {show_bandwidth(even)}")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.xaxis.set_major_formatter(lambda value, _: show[name](value))
    _decorate(axes, f"Over {name}, {report.question.workers} workers", name, "speedup")


def _layer_ticks(axes: Axes, report: Report) -> None:
    every = max(1, len(report.rows) // 40)
    ticks = range(0, len(report.rows), every)
    axes.set_xticks(list(ticks), [report.rows[i].name for i in ticks], rotation=60, ha="right", fontsize=6)
    axes.set_xlim(-0.8, len(report.rows) - 0.2)


def _decorate(axes: Axes, title: str, x: str, y: str) -> None:
    axes.set_title(title, loc="left", fontsize=10)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(True, which="major", color="#e5e5e5", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=7, framealpha=0.9)
