"""The analytic model of Dey et al. (CitiFog 2018): bound, estimate, trigger, calculator, plots.

``fogconv.speedup.bound(spec, rates)`` is S, ``fogconv.speedup.estimate(spec, rates, n)`` is T_local/T_cld for n workers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fogconv.ir.geometry import ConvSpec as ConvSpec
    from fogconv.speedup.calculator import Question as Question
    from fogconv.speedup.calculator import report as report
    from fogconv.speedup.conv_tables import convs as convs
    from fogconv.speedup.model import Rates as Rates
    from fogconv.speedup.model import best_n as best_n
    from fogconv.speedup.model import estimate as estimate
    from fogconv.speedup.model import s_paper as bound
    from fogconv.speedup.model import s_star as bound_star

__all__ = ["ConvSpec", "Question", "Rates", "best_n", "bound", "bound_star", "convs", "estimate", "report"]

_HOME = {
    "ConvSpec": ("fogconv.ir.geometry", "ConvSpec"),
    "Question": ("fogconv.speedup.calculator", "Question"),
    "Rates": ("fogconv.speedup.model", "Rates"),
    "best_n": ("fogconv.speedup.model", "best_n"),
    "bound": ("fogconv.speedup.model", "s_paper"),
    "bound_star": ("fogconv.speedup.model", "s_star"),
    "convs": ("fogconv.speedup.conv_tables", "convs"),
    "estimate": ("fogconv.speedup.model", "estimate"),
    "report": ("fogconv.speedup.calculator", "report"),
}


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name not in _HOME:
        raise AttributeError(f"module 'fogconv.speedup' has no attribute {name!r}")
    module, attribute = _HOME[name]
    return getattr(import_module(module), attribute)
