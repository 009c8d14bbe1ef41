"""Wedges: programs that a worker has to refuse, since it would never end them. One more function is one case more."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from fogconv.ir import program as ir
from fogconv.ir.arrays import Array

Wedge = Callable[[], tuple[Sequence[ir.Program], Mapping[str, Array]]]
"""The programs by rank, the worker's is 1, and their weights: what ``Session.load`` takes."""

WEDGES: tuple[Wedge, ...] = ()
