"""Kernels: the operators that a runtime computes as one, and what a chain of operators takes by them.

Which pairs are fused is found by test cases (`fogconv.calibration.fusion`), for a runtime whose sources say nothing, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

Rules = frozenset[tuple[str, str]]
"""Pairs of operators of which the second runs in the first one's kernel."""

Name = TypeVar("Name", bound=str)


def kernels(operators: Sequence[Name], rules: Rules) -> list[tuple[Name, ...]]:
    """A chain of operators as its kernels: an operator joins the one before it where a rule says so of the two."""
    found: list[tuple[Name, ...]] = []
    for operator in operators:
        if found and (found[-1][-1], operator) in rules:
            found[-1] += (operator,)
        else:
            found.append((operator,))
    return found


def by_kernels(operators: Sequence[str], seconds: Sequence[float], rules: Rules) -> float:
    """Seconds of a chain, of which each operator takes ``seconds`` alone: a kernel takes what its longest operator takes."""
    total, at = 0.0, 0
    for kernel in kernels(operators, rules):
        total += max(seconds[at : at + len(kernel)])
        at += len(kernel)
    return total
