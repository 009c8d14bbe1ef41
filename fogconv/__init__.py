"""fogconv: run one CNN, losslessly, on a cluster of small computers.

Importing this package imports neither torch nor numba, MPI or zmq: what needs them is loaded when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fogconv.cluster.connect import connect as connect
    from fogconv.nn import DistributedConv2d as DistributedConv2d
    from fogconv.nn import distribute as distribute

from fogconv.cluster.protocol.version import VERSION

__version__ = VERSION

_LAZY: dict[str, str] = {
    "connect": "fogconv.cluster.connect",
    "DistributedConv2d": "fogconv.nn",
    "distribute": "fogconv.nn",
}

__all__ = ["DistributedConv2d", "__version__", "connect", "distribute"]


def __getattr__(name: str) -> Any:
    module = _LAZY.get(name)
    if module is None:
        raise AttributeError(f"module 'fogconv' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(module), name)
