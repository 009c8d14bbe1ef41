"""Executors by name: what computes a program on a worker and on the master.

Each is loaded when it is first asked for: a status query, or a planning master, needs no kernels.
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
"""Executors are added here."""


def executor(name: str = DEFAULT) -> Executor:
    """Raises InputError for an unknown name."""
    if name not in EXECUTORS:
        raise InputError(unknown("executor", name, EXECUTORS))
    return EXECUTORS[name]()
