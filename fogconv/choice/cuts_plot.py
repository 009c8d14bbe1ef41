"""A picture of cuts: seconds, and joules where they are known, of every cut, a line for each rate of the link."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fogconv.choice.cuts import Curve, Cut
from fogconv.hardware.units import show_bandwidth
from fogconv.speedup.plots import BLUE, GREEN, GREY, ORANGE, PURPLE, new_figure, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SUFFIXES = (".png", ".svg", ".html")
STYLES = (("-", "o"), ("--", "s"), ("-.", "^"), (":", "D"))
COLOURS = (BLUE, ORANGE, GREEN, PURPLE, GREY)


def draw(path: Path, name: str, cuts: Sequence[Cut], curves: Sequence[Curve]) -> None:
    """Raises InputError for a file that can't be written, DependencyError without matplotlib."""
    panels: list[tuple[str, Callable[[Curve], tuple[float | None, ...]], Callable[[Curve], int | None]]] = [
        ("seconds", lambda each: each.seconds, lambda each: each.fastest)
    ]
    if any(value is not None for each in curves for value in each.joules):
        panels.append(("joules", lambda each: each.joules, lambda each: each.frugalest))
    figure = new_figure(9.5, 4.2 * len(panels))
    for axes, (unit, values, best) in zip(figure.subplots(len(panels), 1, squeeze=False).flat, panels, strict=True):
        for number, each in enumerate(curves):
            line, marker = STYLES[number % len(STYLES)]
            colour = COLOURS[number % len(COLOURS)]
            figures = [float("nan") if value is None else value for value in values(each)]
            label = show_bandwidth(each.bandwidth_bytes_per_s)
            axes.plot(range(len(cuts)), figures, line, color=colour, marker=marker, markersize=3, label=label)
            at = best(each)
            if at is not None:
                axes.plot(at, figures[at], "*", color=colour, markersize=13)
        _decorate(axes, f"{name}: {unit} per inference, cut after a layer (starred: best)", unit, cuts)
    save(figure, path, name)


def _decorate(axes: Axes, title: str, unit: str, cuts: Sequence[Cut]) -> None:
    axes.set_yscale("log")
    axes.set_title(title, loc="left")
    axes.set_ylabel(unit)
    axes.set_xticks(range(len(cuts)), ["input", *(cut.after for cut in cuts[1:-1]), "output"], rotation=90, fontsize=7)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
