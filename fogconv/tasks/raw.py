"""Raw: a network's outputs as they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from fogconv.ir.arrays import Array

MOST_VALUES = 10_000
"""Outputs with more values appear in JSON by their figures only."""


@dataclass(frozen=True, slots=True)
class RawOutput:
    """One output of one picture: ``values`` (C, …) without the batch."""

    name: str
    values: Array

    def as_json(self) -> dict[str, Any]:
        values = self.values.astype(np.float64)
        figures = {} if not values.size else {"min": values.min(), "max": values.max(), "mean": values.mean()}
        found = {"name": self.name, "shape": list(values.shape)} | {name: float(each) for name, each in figures.items()}
        return found | ({"values": values.tolist()} if values.size <= MOST_VALUES else {})


@dataclass(frozen=True, slots=True)
class Raw:
    outputs: tuple[RawOutput, ...]

    def as_json(self) -> dict[str, Any]:
        return {"outputs": [output.as_json() for output in self.outputs]}


def raw(outputs: Mapping[str, Array]) -> Raw:
    """Of one picture, without the batch."""
    return Raw(tuple(RawOutput(name, values) for name, values in outputs.items()))
