"""fogconv: run one CNN, losslessly, on a cluster of small computers.

    with fogconv.connect("tcp://pi1:5555,tcp://pi2:5555") as cluster:
        engine = fogconv.compile(model, cluster, example=x)
        y = engine(x)

Importing this package imports neither torch nor numba, MPI or zmq; modules that need them are loaded on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fogconv.cluster.protocol.version import VERSION

if TYPE_CHECKING:
    from fogconv import speedup as speedup
    from fogconv import zoo as zoo
    from fogconv.api.compiled import CompiledModel as CompiledModel
    from fogconv.api.compiled import compile as compile
    from fogconv.api.planned import PlannedModel as PlannedModel
    from fogconv.api.planned import plan as plan
    from fogconv.cluster.connect import connect as connect
    from fogconv.errors import FogconvError as FogconvError
    from fogconv.hardware.topology import Topology as Topology
    from fogconv.nn import DistributedConv2d as DistributedConv2d
    from fogconv.nn import distribute as distribute
    from fogconv.planning.plan_options import PlanOptions as PlanOptions
    from fogconv.runtime.run_options import RunOptions as RunOptions

__version__ = VERSION

_LAZY: dict[str, str] = {
    "CompiledModel": "fogconv.api.compiled",
    "DistributedConv2d": "fogconv.nn",
    "FogconvError": "fogconv.errors",
    "PlanOptions": "fogconv.planning.plan_options",
    "PlannedModel": "fogconv.api.planned",
    "RunOptions": "fogconv.runtime.run_options",
    "Topology": "fogconv.hardware.topology",
    "compile": "fogconv.api.compiled",
    "connect": "fogconv.cluster.connect",
    "distribute": "fogconv.nn",
    "plan": "fogconv.api.planned",
}
_PACKAGES = ("speedup", "zoo")

__all__ = [
    "CompiledModel",
    "DistributedConv2d",
    "FogconvError",
    "PlanOptions",
    "PlannedModel",
    "RunOptions",
    "Topology",
    "__version__",
    "compile",
    "connect",
    "distribute",
    "plan",
    "speedup",
    "zoo",
]


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name in _PACKAGES:
        return import_module(f"fogconv.{name}")
    module = _LAZY.get(name)
    if module is None:
        raise AttributeError(f"module 'fogconv' has no attribute {name!r}")
    return getattr(import_module(module), name)


def __dir__() -> list[str]:
    return list(__all__)
