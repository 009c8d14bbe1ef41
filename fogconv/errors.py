"""Every error that fogconv raises, on one page.

A message says what happened, the numbers, and what to do. Errors of other libraries (zmq, mpi4py, torch) are mapped
to one of these where they come in. The command line prints the message of a FogconvError and exits with its
``exit_code``; anything else is a bug and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class FogconvError(Exception):
    """The root: catch this to catch everything that fogconv raises on purpose."""

    exit_code = 1


class InputError(FogconvError, ValueError):
    """Something that the user gave is wrong: a name, a path, a number, a file's content."""

    exit_code = 2


class GeometryError(InputError):
    """Shapes, strides, paddings or regions that do not describe a layer."""


class KernelError(InputError):
    """A kernel was called with arrays or a geometry that it can't run."""


class ModelError(InputError):
    """A model, its weights, an image or a label file can't be used."""


class TopologyError(InputError):
    """A hostfile, a device list or a profile that does not describe a cluster."""


class PlannerError(FogconvError):
    """No plan satisfies the limits (memory, scheme, number of ranks)."""

    exit_code = 2


class DependencyError(InputError):
    """A library that this command needs is not installed; the message names what to install."""


class ClusterError(FogconvError):
    """Something went wrong between the ranks."""


class ConnectError(ClusterError):
    """A worker could not be reached, or an address could not be bound."""

    exit_code = 2


class RefusedError(ClusterError):
    """The peer answered and said no: it serves another master, speaks another version, or knows no such key."""

    exit_code = 2


class WireError(ClusterError):
    """A message that can't be decoded: wrong magic, version, type or sizes."""


class TransportTimeout(ClusterError, TimeoutError):
    """Nothing arrived within the time allowed."""


class WorkerLostError(ClusterError):
    """A worker stopped answering. ``rank`` says which."""

    def __init__(self, message: str, rank: int = -1) -> None:
        super().__init__(message)
        self.rank = rank


class WorkerFailedError(ClusterError):
    """A worker reported an error while it ran a program. ``rank`` says which."""

    def __init__(self, message: str, rank: int = -1) -> None:
        super().__init__(message)
        self.rank = rank


class WorkerMemoryError(ClusterError):
    """A shard does not fit into a worker's memory limit; the message names both figures. ``rank`` says whose."""

    exit_code = 2

    def __init__(self, message: str, rank: int = -1) -> None:
        super().__init__(message)
        self.rank = rank


FEW = 12
"""So many names are listed in full."""


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    """ "net 'vgg61' is not known; did you mean vgg16 or vgg11?"."""
    names = sorted(set(known))
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    if near:
        return f"{what} {name!r} is not known; did you mean {' or '.join(near)}?"
    listed = ", ".join(names[:FEW]) + (", …" if len(names) > FEW else "")
    return f"{what} {name!r} is not known; there are {listed}"


MOST_QUOTED = 80
"""So many characters of what the user wrote are repeated in a message."""


def quoted(text: str) -> str:
    """What the user wrote, for a message: in quotes, cut, without characters that a terminal would obey."""
    shown = repr(text if len(text) <= MOST_QUOTED else text[: MOST_QUOTED - 1] + "…")
    return shown.encode("utf-8", "backslashreplace").decode()


def with_extra(name: str) -> str:
    """How to install what an extra brings. Never by this project's name: on the package index it is somebody else's."""
    return f"install from the checkout (pip install '.[{name}]') or the wheel"
