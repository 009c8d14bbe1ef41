"""All errors that fogconv raises.

A message states what happened, the numbers, and what to do. Errors of other libraries (zmq, mpi4py, torch) are mapped to
one of these where they occur. The command line prints the message of a FogconvError and exits with its ``exit_code``;
anything else is a bug and keeps its traceback.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

MOST_OF_A_MESSAGE = 1500
"""A message of more characters loses its middle: a name in a file may be as long as the file."""


def printable(text: str, most: int) -> str:
    """One line without control characters, as Python writes them (``\\x1b``), of at most so many characters."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text[: most + 1])
    return shown if len(shown) <= most else shown[: most - 1] + "…"


class FogconvError(Exception):
    """The root: catch this to catch everything that fogconv raises on purpose.

    As a text it is one line that any terminal can show, whatever names from files and options stand in it.
    """

    exit_code = 1

    def __str__(self) -> str:
        text = super().__str__().strip()
        if len(text) > MOST_OF_A_MESSAGE:
            end = text[-MOST_OF_A_MESSAGE // 2 :]
            text = text[: MOST_OF_A_MESSAGE - len(end) - 1] + "…" + end
        return printable(text, MOST_OF_A_MESSAGE)


class InputError(FogconvError, ValueError):
    """The user's input is wrong: a name, a path, a number, a file's content."""

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


class DeadlineError(PlannerError):
    """No plan is fast enough; the message names the nearest and its time."""


class DependencyError(InputError):
    """A library that this command needs is not installed; the message names what to install."""


class ClusterError(FogconvError):
    """Communication between the ranks failed."""


class ConnectError(ClusterError):
    """A worker could not be reached, or an address could not be bound."""

    exit_code = 2


class RefusedError(ClusterError):
    """The peer refused: it serves another master, has another version, or does not know the key."""

    exit_code = 2


class WireError(ClusterError):
    """A message that can't be decoded: wrong magic, version, type or sizes."""


class TransportTimeout(ClusterError, TimeoutError):
    """Nothing arrived within the time allowed."""


class WorkerLostError(ClusterError):
    """A worker stopped answering. ``rank`` is its rank."""

    def __init__(self, message: str, rank: int = -1) -> None:
        super().__init__(message)
        self.rank = rank


class WorkerFailedError(ClusterError):
    """A worker reported an error while it ran a program. ``rank`` is its rank."""

    def __init__(self, message: str, rank: int = -1) -> None:
        super().__init__(message)
        self.rank = rank


class WorkerMemoryError(ClusterError):
    """A shard does not fit into a worker's memory limit; the message names both figures. ``rank`` is its rank."""

    exit_code = 2

    def __init__(self, message: str, rank: int = -1) -> None:
        super().__init__(message)
        self.rank = rank


class SwapError(ClusterError):
    """Weights that don't fit into memory can't be kept on disk: it is full, or there is no folder for them."""

    exit_code = 2


FEW = 12
"""The most names that are listed in full."""


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    """ "net 'vgg61' is not known; did you mean vgg16 or vgg11?"."""
    names = sorted(set(known))
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    if near:
        return f"{what} {name!r} is not known; did you mean {' or '.join(near)}?"
    listed = ", ".join(names[:FEW]) + (", …" if len(names) > FEW else "")
    return f"{what} {name!r} is not known; there are {listed}"


LONG = 120
"""Characters of a value that a message shows."""


def shown(value: object) -> str:
    """An input value as text for a message: printable, never long, and in quotes unless it is one plain word."""
    if isinstance(value, int) and abs(value) >= 10**LONG:
        return f"a number of more than {LONG} digits"  # Python refuses to write one of 5,000 out
    text = value if isinstance(value, str) else str(value)
    end = f"… ({len(text):,} characters)" if len(text) > LONG else ""
    text = text[:LONG]
    return (text if re.fullmatch(r"[\w.,:=/@%+~-]+", text, re.ASCII) else f"'{visible(text)}'") + end


def visible(text: str) -> str:
    """The text with what no terminal can show, or would obey, escaped: ``\\x1b``; ``\\xff`` for a byte that is no text."""
    return "".join(c if c.isprintable() else _escaped(c) for c in text)


def _escaped(c: str) -> str:
    return f"\\x{ord(c) - 0xDC00:02x}" if 0xDC80 <= ord(c) <= 0xDCFF else repr(c)[1:-1]


def quoted(text: str) -> str:
    """What the user wrote, for a message: in quotes, printable, never long."""
    return f"'{visible(text if len(text) <= LONG else text[: LONG - 1] + '…')}'"


def with_extra(name: str) -> str:
    """How to install an extra. Not by this project's name, which belongs to another project on the package index."""
    return f"install from the checkout (pip install '.[{name}]') or the wheel"
