"""Comparison: two results of `fogconv bench`, item by item."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fogconv.benchmark.record import GROUPS, Item, Record


@dataclass(frozen=True, slots=True)
class Row:
    """One item of both results. ``ratio``: how many times as fast the second is."""

    first: Item
    second: Item

    @property
    def ratio(self) -> float:
        return self.first.seconds / self.second.seconds

    @property
    def within_noise(self) -> bool:
        """Whether the middle halves of both items' runs overlap, or what their medians are certain to."""
        (low, high), (least, most) = _range(self.first), _range(self.second)
        return low <= most and least <= high


NOTCH = 1.57
"""Medians differ, 95 times in 100, where median ± 1.57 · (third quartile − first) ÷ √runs do not overlap (McGill, Tukey,
Larsen 1978): with few runs that is wider than the quartiles are apart."""


def _range(item: Item) -> tuple[float, float]:
    low, high = item.quartiles
    notch = NOTCH * (high - low) / math.sqrt(max(1, item.runs))
    return min(low, item.seconds - notch), max(high, item.seconds + notch)


@dataclass(frozen=True, slots=True)
class Comparison:
    """``only_first`` and ``only_second`` are names of items that the other result lacks. ``cautions``: what makes the two
    less comparable."""

    rows: tuple[Row, ...]
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]
    cautions: tuple[str, ...]

    def mean(self, group: str | None = None) -> float | None:
        """The geometric mean of the ratios of one group, or of all items; None where there are none."""
        ratios = [row.ratio for row in self.rows if group in (None, row.first.group)]
        return math.exp(sum(map(math.log, ratios)) / len(ratios)) if ratios else None

    def as_json(self) -> dict[str, Any]:
        return {
            "items": [
                {
                    "group": row.first.group,
                    "name": row.first.name,
                    "seconds": [row.first.seconds, row.second.seconds],
                    "spreads": [row.first.spread, row.second.spread],
                    "ratio": row.ratio,
                    "within_noise": row.within_noise,
                }
                for row in self.rows
            ],
            "means": {group: mean for group in GROUPS if (mean := self.mean(group)) is not None},
            "mean": self.mean(),
            "only_first": list(self.only_first),
            "only_second": list(self.only_second),
            "cautions": list(self.cautions),
        }


def compare(first: Record, second: Record, names: tuple[str, str]) -> Comparison:
    """``names`` of the two are for the cautions."""
    ours, theirs = ({(item.group, item.name): item for item in record.items} for record in (first, second))
    rows = tuple(Row(item, theirs[key]) for key, item in ours.items() if key in theirs)
    return Comparison(
        rows,
        tuple(item.name for key, item in ours.items() if key not in theirs),
        tuple(item.name for key, item in theirs.items() if key not in ours),
        tuple(_cautions((first, second), names)),
    )


def _cautions(records: tuple[Record, Record], names: tuple[str, str]) -> Sequence[str]:
    first, second = records
    found = []
    if first.set != second.set:
        found.append(f"they are of different sets ({first.set} and {second.set}): equal names may stand for other work")
    if first.precision != second.precision:
        found.append(f"{names[0]} is in {first.precision}, {names[1]} in {second.precision}")
    for what in sorted(first.versions.keys() | second.versions.keys()):
        ours, theirs = first.versions.get(what, "none"), second.versions.get(what, "none")
        if ours != theirs:
            found.append(f"{what} {ours} and {theirs}")
    if first.cpu == second.cpu and {each.kernels for each in first.machines} != {each.kernels for each in second.machines}:
        found.append("the kernels' sources differ")
    if first.quick != second.quick:
        found.append(f"{names[0 if first.quick else 1]} was made with --quick")
    for record, name in zip(records, names, strict=True):
        if record.other_cores > 0.5:
            found.append(f"other work kept {record.other_cores:.1f} cores busy where {name} was measured")
    return found
