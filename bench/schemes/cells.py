"""Cells: which clusters are measured, what each one gave, and what that says of auto. Pure."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from bench.fog.boards import BOARDS
from fogconv.errors import InputError

AUTO = "auto"
NETS = ("vgg16", "resnet50", "inception_v3", "mobilenet_v2")
GIGABIT = "1gbit"
EVEN, UNEVEN = (0.1, 0.1, 0.1, 0.1, 0.1), (0.2, 0.1, 0.1, 0.05, 0.05)
FAR = 3.0
"""A scheme that is predicted to take more times the best prediction is not measured. It counts as so many times the best
measured one, however much worse the prediction is."""
NEAR = 0.1
"""By how much a prediction may be off to count as right."""


@dataclass(frozen=True, slots=True)
class Cell:
    """A net on nodes of so many shares of a core, with links like a board's or of a rate."""

    net: str
    link: str
    shares: tuple[float, ...]
    size: tuple[int, int] | None = None

    @property
    def like(self) -> str | None:
        return self.link if self.link in BOARDS else None

    @property
    def uneven(self) -> bool:
        return len(set(self.shares)) > 1

    @property
    def name(self) -> str:
        """By which a result is found again."""
        size = "" if self.size is None else f" at {self.size[0]}x{self.size[1]}"
        return f"{self.net}{size}, {self.link}, {','.join(f'{share:g}' for share in self.shares)}"


ALL = tuple(Cell(*each) for each in product(NETS, (*BOARDS, GIGABIT), (EVEN, UNEVEN)))
QUICK = (
    Cell("resnet50", "pi4", (0.1, 0.1, 0.1)),
    Cell("resnet18", GIGABIT, (0.1, 0.05, 0.05)),
)
"""Small clusters, whose inferences still take longer than a node's pauses under its quota."""


def measured_schemes(predicted_s: Mapping[str, float]) -> list[str]:
    """The schemes that are worth measuring; auto is, always."""
    best = min(predicted_s.values())
    return [scheme for scheme, seconds in predicted_s.items() if scheme == AUTO or seconds <= FAR * best]


def result(
    cell: Cell,
    rate: str,
    predicted_s: Mapping[str, float],
    same_as: Mapping[str, str],
    runs: Mapping[str, Sequence[float]],
    again: Sequence[float],
    error: float,
) -> dict[str, Any]:
    """``same_as``: of each scheme the first one with its plan; only that one has ``runs``. ``again``: auto's runs at the
    other end of each round. Auto's seconds are the median of both; the spread is by how much the two medians differ, or
    half the distance of their quartiles, if that is more."""
    first, both = runs[same_as[AUTO]], [*runs[same_as[AUTO]], *again]
    medians = {scheme: statistics.median(seconds) for scheme, seconds in runs.items()}
    medians[same_as[AUTO]] = auto_s = statistics.median(both)
    low, _, high = statistics.quantiles(both, n=4)
    spread = max(abs(statistics.median(first) / statistics.median(again) - 1), (high - low) / 2 / auto_s)
    far_s = FAR * min(medians.values())
    seconds = {scheme: medians.get(same_as[scheme], far_s) for scheme in predicted_s}
    return {
        "cell": cell.name,
        "net": cell.net,
        "like": cell.like,
        "rate": rate,
        "nodes": len(cell.shares),
        "cpu": list(cell.shares),
        "uneven": cell.uneven,
        "seconds": seconds,
        "not_measured": sorted(scheme for scheme in predicted_s if same_as[scheme] not in medians),
        "auto_s": auto_s,
        "predicted_s": predicted_s[AUTO],
        "predictions": dict(predicted_s),
        "same_plan": {scheme: other for scheme, other in same_as.items() if scheme != other},
        "spread": spread,
        "max_relative_error": error,
        "runs": {scheme: [round(each, 4) for each in seconds] for scheme, seconds in (*runs.items(), ("again", again))},
    }


def behind(cell: Mapping[str, Any]) -> float:
    """By how much auto takes longer than the cell's best scheme, beyond the cell's own spread: a share."""
    return max(0.0, float(cell["auto_s"] / min(cell["seconds"].values()) - 1 - cell["spread"]))


def verdict(cells: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """``auto_vs_best_fixed``: how many times faster than the one fixed scheme that is the best over all cells, by the
    geometric mean. Only schemes that were tried in each cell count."""
    if not cells:
        return {"cells": []}
    fixed = set.intersection(*(set(cell["seconds"]) for cell in cells)) - {AUTO}
    ratios = {
        scheme: statistics.geometric_mean(cell["seconds"][scheme] / cell["auto_s"] for cell in cells)
        for scheme in sorted(fixed)
    }
    best = min(ratios, key=ratios.__getitem__) if ratios else None
    worst = max(cells, key=behind)
    right = [abs(cell["predicted_s"] / cell["auto_s"] - 1) <= NEAR for cell in cells]
    return {
        "cells": list(cells),
        "best_fixed": best,
        "auto_vs_best_fixed": None if best is None else ratios[best],
        "auto_vs_fixed": ratios,
        "worst_behind_pct": 100 * behind(worst),
        "worst_cell": worst["cell"],
        "predicted_within_10_pct": sum(right) / len(right),
    }


def kept(file: Path | None) -> list[dict[str, Any]]:
    """The cells that a file holds. Raises InputError for another file."""
    if file is None or not file.exists():
        return []
    try:
        found: list[dict[str, Any]] = json.loads(file.read_bytes())["cells"]
        verdict(found)
        return found
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"--keep {file}: it is not a result of bench.schemes --json ({error})") from error


def merged(files: Iterable[Sequence[dict[str, Any]]]) -> list[dict[str, Any]]:
    """The cells of several files; of a cell in more than one the first."""
    found: dict[str, dict[str, Any]] = {}
    for cell in (cell for cells in files for cell in cells):
        found.setdefault(cell["cell"], cell)
    return list(found.values())


def keep(file: Path | None, cells: Sequence[Mapping[str, Any]]) -> None:
    """Write the cells so far, whole or not at all."""
    if file is not None:
        part = file.with_name(file.name + ".part")
        part.write_text(json.dumps(verdict(cells), indent=1) + "\n")
        part.replace(file)


def missing(wanted: Iterable[Cell], cells: Iterable[Mapping[str, Any]]) -> list[Cell]:
    done = {cell["cell"] for cell in cells}
    return [cell for cell in wanted if cell.name not in done]
