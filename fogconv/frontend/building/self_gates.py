"""Self-gates: x times a function of x, as models write silu, hard-swish, gelu and mish, becomes one operator.

    x · sigmoid(b·x)                      silu, swish(b)
    x · clip(a·x + b, 0, h) · s           hardswish, hard_gate(a, b, h)      (PaddlePaddle: Add, Clip, Mul, Div)
    x · (1 + erf(x/√2)) · s               gelu(s)
    x · tanh(softplus(x))                 mish

A gate is a list of stages: an operator with its numbers, or a line (scale, shift). The factor s may stand in the gate, or
come last (`scaled`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from fogconv.frontend.building.hosted import HostOp
from fogconv.frontend.fusion import Draft
from fogconv.ir.layers import Affine, Elementwise, Layer

Operator = tuple[str, tuple[float, ...]]
Stage = tuple[str, tuple[float, ...]]

LINE = "line"
MOST = 5
"""Stages of the longest pattern: line, operator, line, operator, line."""

CLAMPS = {"relu6": (1.0, 0.0, 6.0), "hardsigmoid": (1.0 / 6.0, 0.5, 1.0)}
"""Operators that are clip(a·x + b, 0, h)."""
CLOSE = 1e-4
"""PaddlePaddle writes 1/6 with few digits."""


def stages_between(items: Sequence[Layer | HostOp], draft: Draft, tensor: int, source: int) -> list[Stage]:
    """The stages that make map ``tensor`` of map ``source``, each of one map only, in their order; empty where there are
    others, or more than a pattern has."""
    stages: list[Stage] = []
    for item in reversed(items):
        if tensor == source or len(stages) > MOST:
            break
        if isinstance(item, HostOp) or tensor not in item.writes:
            continue
        if isinstance(item, Elementwise) and len(item.sources) == 1 and item.constant is None:
            stages.append((item.op, item.parameters))
            tensor = item.sources[0]
        elif isinstance(item, Affine):
            factors = [None if key is None else draft[key] for key in (item.scale, item.shift)]
            if any(factor is not None and np.ptp(factor) != 0.0 for factor in factors):
                return []
            if item.activation is not None:
                stages.append((item.activation, ()))
            scale, shift = (default if f is None else float(f[0]) for f, default in zip(factors, (1.0, 0.0), strict=True))
            stages.append((LINE, (scale, shift)))
            tensor = item.source
        else:
            return []
    return stages[::-1] if tensor == source else []


def gated(stages: Sequence[Stage]) -> Operator | None:
    """The operator that x times these stages of x is."""
    before, after = (1.0, 0.0), (1.0, 0.0)
    operators: list[Operator] = []
    for name, numbers in stages:
        if name != LINE:
            if operators and after != (1.0, 0.0):
                return None
            operators.append((name, numbers))
        elif operators:
            after = _then(after, numbers)
        else:
            before = _then(before, numbers)
    match operators:
        case [("sigmoid", ())] if after == (1.0, 0.0) and before[1] == 0.0:
            return ("silu", ()) if before[0] == 1.0 else ("swish", (before[0],))
        case [("softplus", (1.0, threshold)), ("tanh", ())] if before == after == (1.0, 0.0) and threshold >= 20.0:
            return "mish", ()
        case [("erf", ())] if before[1] == 0.0 and after[0] == after[1]:
            close = math.isclose(before[0], math.sqrt(0.5), rel_tol=1e-6)
            return ("gelu", (after[0],)) if close else None
        case [(name, numbers)] if after[0] > 0.0 and after[1] == 0.0 and (clamp := _clamp(name, numbers)) is not None:
            alpha, beta, high = clamp
            return _hard(after[0] * alpha * before[0], after[0] * (alpha * before[1] + beta), after[0] * high)
    return None


def scaled(operator: Operator, factor: float) -> Operator | None:
    """The operator times a factor as one operator."""
    match operator:
        case "gelu", (scale,):
            return "gelu", (scale * factor,)
        case "hard_gate", numbers if factor > 0.0:
            alpha, beta, high = (number * factor for number in numbers)
            return _hard(alpha, beta, high)
    return None


def _then(line: tuple[float, ...], other: tuple[float, ...]) -> tuple[float, float]:
    return line[0] * other[0], line[1] * other[0] + other[1]


def _clamp(name: str, numbers: tuple[float, ...]) -> tuple[float, float, float] | None:
    match name, numbers:
        case "clip", (0.0, high):
            return 1.0, 0.0, high
        case "hard_sigmoid", (alpha, beta):
            return alpha, beta, 1.0
    return CLAMPS.get(name)


def _hard(alpha: float, beta: float, high: float) -> Operator:
    usual = all(math.isclose(a, b, rel_tol=CLOSE) for a, b in zip((alpha, beta, high), CLAMPS["hardsigmoid"], strict=True))
    return ("hardswish", ()) if usual else ("hard_gate", (alpha, beta, high))
