"""Executors by name, for workers and the master.

Each is imported on first use: a status query, or a planning master, needs no kernels. They are named here as texts,
because some are in packages above this one: what the cluster imports knows no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module

from fogconv.cluster.executor.interface import Executor
from fogconv.errors import DependencyError, InputError, unknown, with_extra

DEFAULT = "numba"

EXECUTORS: Mapping[str, str] = {
    "numba": "fogconv.cluster.executor.executable",
    "torch": "fogconv.accelerator.executable",
}
"""The module of each, whose ``on_device`` makes it for a device by name. Add new executors here."""


def known_executor(name: str) -> tuple[str, str]:
    """The name and the device of "torch:cuda"; no device is the usual one. Raises InputError for an unknown name."""
    kind, colon, device = name.partition(":")
    if kind not in EXECUTORS:
        raise InputError(unknown("executor", kind, EXECUTORS))
    if colon and not device:
        raise InputError(f"executor {name!r} names no device; write {kind}, or a device behind it, such as torch:cuda")
    return kind, device


def executor(name: str = DEFAULT) -> Executor:
    """The executor of this name, "numba" or "torch:cuda". Raises InputError for an unknown one and for a device that is not
    there, DependencyError where its library is missing."""
    kind, device = known_executor(name)
    try:
        module = import_module(EXECUTORS[kind])
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("fogconv"):
            raise
        raise DependencyError(f"--executor {kind} needs {error.name}: {with_extra('accelerator')}") from error
    made: Executor = module.on_device(device)
    return made
