"""Executors by name, for workers and the master.

Each is imported on first use: a status query, or a planning master, needs no kernels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from fogconv.cluster.executor.interface import Executor
from fogconv.errors import InputError, unknown

DEFAULT = "numba"


def _numba() -> Executor:
    from fogconv.cluster.executor.executable import Executable

    return Executable


EXECUTORS: Mapping[str, Callable[[], Executor]] = {"numba": _numba}
"""Add new executors here."""


def executor(name: str = DEFAULT) -> Executor:
    """The executor of this name. Raises InputError for an unknown one."""
    if name not in EXECUTORS:
        raise InputError(unknown("executor", name, EXECUTORS))
    return EXECUTORS[name]()
