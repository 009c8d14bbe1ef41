"""The paper's own setting: a medium on which a broadcast costs one transmission, and channels that can be cut anywhere.

    n·T_tx = n · (c/n)·H·W·(α/M + β) = c·H·W·(α/M + β)        T_edge = T_local ÷ n
    n·T_rx = n · (f/n)·h·w·(α/M + β) = f·h·w·(α/M + β)

The input is sent once and the output is sent once, for any number of workers, so that T_local ÷ T_cld tends to S as n
grows (where cutting, joining and steps are free). `fogconv.speedup.model` has the formulas for unicast links.
"""

from __future__ import annotations

import math

from fogconv.errors import InputError
from fogconv.ir.geometry import BYTES_PER_ELEMENT, ConvSpec
from fogconv.speedup.model import Rates, Terms, s_paper, t_local
from fogconv.speedup.trigger import Decision, Trigger, judge

CROWD = 10**6
"""This many workers stand for any number: T_local ÷ T_cld is within a thousandth of S, unless S is above a thousand."""


def t_cld(spec: ConvSpec, rates: Rates, n: int) -> Terms:
    """The terms of T_cld over n workers, in seconds. Raises InputError for less than one."""
    if n < 1:
        raise InputError(f"{n} workers: there must be at least 1")
    return Terms(
        spec.input_elements * rates.copy,
        rates.wake + rates.wire_s(spec.input_elements),
        spec.macs * rates.gamma / n + rates.step,
        rates.wake + rates.wire_s(spec.output_elements),
        spec.output_elements * rates.copy,
    )


def estimate(spec: ConvSpec, rates: Rates, n: int) -> float:
    """T_local ÷ T_cld over n workers."""
    return t_local(spec, rates) / t_cld(spec, rates, n).total_s


def break_even_bandwidth(spec: ConvSpec, rates: Rates, n: int, threshold: float = 1.0) -> float | None:
    """The least bandwidth, in bytes per second, at which T_local ÷ T_cld reaches ``threshold``; None where none does."""
    elements = spec.input_elements + spec.output_elements
    fixed = t_cld(spec, rates, n).total_s - elements * rates.beta
    beta = (t_local(spec, rates) / threshold - fixed) / elements
    return BYTES_PER_ELEMENT / beta if beta > 0 and math.isfinite(beta) else None


def decide(spec: ConvSpec, rates: Rates, n: int, trigger: Trigger, threshold: float) -> Decision:
    """The verdict on one layer. S_star is S here, and n workers gain at most n."""
    bound, terms, local_s = s_paper(spec, rates), t_cld(spec, rates, n), t_local(spec, rates)
    ratio = local_s / terms.total_s
    distribute, reason = judge(trigger, threshold, spec, bound, ratio)
    return Decision(distribute, reason, bound, bound, min(float(n), bound), ratio, local_s, predicted=terms)
