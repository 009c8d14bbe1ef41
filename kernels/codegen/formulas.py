"""Formulas: elementwise operators as LLVM IR on vectors of floats, by name.

An Elementwise step's ``op`` is one of these names. A formula receives its inputs and parameters as vectors of one type
and emits the result, with torch's semantics, NaN included. `fogconv.kernels.maps.per_element` applies it to maps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from llvmlite import ir

from fogconv.errors import KernelError, unknown
from fogconv.kernels.codegen import emit
from fogconv.kernels.codegen.activation import constant
from fogconv.kernels.codegen.vector import intrinsic, vec

MOST = 2
"""The most inputs, and the most parameters, that a formula may have."""


@dataclass(frozen=True, slots=True)
class Formula:
    """``build(builder, inputs, parameters)`` emits the operator; the lists have ``inputs`` and ``parameters``
    elements."""

    inputs: int
    parameters: int
    build: Callable[[ir.IRBuilder, Sequence[Any], Sequence[Any]], Any]


def _leaky_relu(builder: ir.IRBuilder, inputs: Sequence[Any], parameters: Sequence[Any]) -> Any:
    [x], [slope] = inputs, parameters
    return builder.select(builder.fcmp_ordered(">", x, constant(x.type, 0.0)), x, builder.fmul(x, slope))


def _maximum(builder: ir.IRBuilder, inputs: Sequence[Any], parameters: Sequence[Any]) -> Any:
    a, b = inputs
    if emit.cpu_family(builder) == "aarch64":
        return emit.maximum(builder, a, b)
    # The ordered comparison takes b where it is NaN; where a is, "unordered" takes a.
    larger = builder.select(builder.fcmp_ordered(">", a, b), a, b)
    return builder.select(builder.fcmp_unordered("uno", a, a), a, larger)


FORMULAS: Mapping[str, Formula] = {
    "leaky_relu": Formula(1, 1, _leaky_relu),
    "maximum": Formula(2, 0, _maximum),
}
"""Add new elementwise operators here."""


def formula(name: str) -> Formula:
    """Raises KernelError for an unknown name."""
    if name not in FORMULAS:
        raise KernelError(unknown("elementwise operator", name, FORMULAS))
    return FORMULAS[name]


@cache
def applied(name: str) -> Any:
    """The intrinsic (x, y, p, q) → formula; arguments that the formula doesn't take are ignored."""
    inputs, parameters, build = FORMULAS[name].inputs, FORMULAS[name].parameters, FORMULAS[name].build

    @intrinsic
    def apply(typingctx: Any, x: Any, y: Any, p: Any, q: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return build(builder, args[:inputs], args[MOST : MOST + parameters])

        return vec(vec, vec, vec, vec), codegen

    return apply
