"""Hosted operations: those that the model's own framework computes on the master, and why."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class HostOp:
    """One hosted operation of the model, waiting to be grouped: the values that it reads, and those that it makes."""

    node: Any
    reads: tuple[Hashable, ...]
    makes: tuple[Hashable, ...]


UNKNOWN = "workers have no such operator"

OTHER_FORM = "workers know this operator in other forms only"

AMONG_HOSTED = "what it reads is no map, but stays on the master"
"""Why an operation is hosted."""


def result_key(key: Any) -> str:
    """What a host layer returns one of the model's outputs by, among the values that host layers keep."""
    return f"output {key}"
