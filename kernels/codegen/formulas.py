"""Formulas: elementwise operators as LLVM IR on vectors of floats, by name.

An Elementwise step's ``op`` is one of these names, and so is an activation, with its numbers behind it: "relu",
"leaky_relu(0.1)". A formula receives its inputs and parameters as vectors of one type and emits the result, with torch's
semantics, NaN included. `fogconv.kernels.maps.per_element` applies it to maps, `fogconv.kernels.codegen.epilogue` to what
a convolution has just stored.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numpy.typing import NDArray

from fogconv.errors import KernelError, unknown
from fogconv.ir.geometry import BLOCK
from fogconv.kernels.codegen import activation as functions
from fogconv.kernels.codegen import emit
from fogconv.kernels.codegen.activation import constant
from fogconv.kernels.codegen.vector import intrinsic, vec

INPUTS, PARAMETERS = 2, 3
"""The most inputs, and the most parameters, that a formula may have."""

ACTIVATIONS_KEPT = 256

Build = Callable[[ir.IRBuilder, Sequence[Any], Sequence[Any]], Any]


@dataclass(frozen=True, slots=True)
class Formula:
    """``build(builder, inputs, parameters)`` emits the operator; the lists have ``inputs`` and ``parameters``
    elements."""

    inputs: int
    parameters: int
    build: Build


class Activation(NamedTuple):
    """A formula of one input and its numbers."""

    name: str
    parameters: tuple[float, ...]


def _one(parameters: int, function: Callable[..., Any]) -> Formula:
    """A function of one number."""
    return Formula(1, parameters, lambda builder, inputs, numbers: function(builder, *inputs, *numbers))


def _two(method: str) -> Formula:
    """An instruction of two operands."""
    return Formula(2, 0, lambda builder, inputs, _: getattr(builder, method)(*inputs))


def _extreme(order: str) -> Formula:
    """The greater (">") or the smaller ("<") of two; NaN where either is."""

    def build(builder: ir.IRBuilder, inputs: Sequence[Any], parameters: Sequence[Any]) -> Any:
        a, b = inputs
        if emit.cpu_family(builder) == "aarch64":
            return (emit.maximum if order == ">" else emit.minimum)(builder, a, b)
        # The ordered comparison takes b where it is NaN; where a is, "unordered" takes a.
        taken = builder.select(builder.fcmp_ordered(order, a, b), a, b)
        return builder.select(builder.fcmp_unordered("uno", a, a), a, taken)

    return Formula(2, 0, build)


def _prelu(builder: ir.IRBuilder, inputs: Sequence[Any], parameters: Sequence[Any]) -> Any:
    x, slope = inputs
    return functions.leaky_relu(builder, x, slope)


def _negated(function: Callable[..., Any]) -> Callable[..., Any]:
    """−f(−x)."""

    def build(builder: ir.IRBuilder, x: ir.Value, *numbers: ir.Value) -> Any:
        zero = constant(x.type, -0.0)
        return builder.fsub(zero, function(builder, builder.fsub(zero, x), *numbers))

    return build


def _log_sigmoid(builder: ir.IRBuilder, x: ir.Value) -> Any:
    return _negated(functions.softplus)(builder, x, constant(x.type, 1.0), constant(x.type, np.inf))


FORMULAS: Mapping[str, Formula] = {
    "relu": _one(0, functions.relu),
    "relu6": _one(0, functions.relu6),
    "silu": _one(0, functions.silu),
    "hardswish": _one(0, functions.hardswish),
    "sigmoid": _one(0, functions.sigmoid),
    "hardsigmoid": _one(0, functions.hardsigmoid),
    "leaky_relu": _one(1, functions.leaky_relu),
    "clip": _one(2, functions.clip),
    "elu": _one(3, functions.elu),
    "gelu": _one(1, functions.gelu),
    "gelu_tanh": _one(0, functions.gelu_tanh),
    "swish": _one(1, functions.swish),
    "mish": _one(0, functions.mish),
    "softplus": _one(2, functions.softplus),
    "log_sigmoid": _one(0, _log_sigmoid),
    "softsign": _one(0, functions.softsign),
    "hard_sigmoid": _one(2, functions.hard_sigmoid),
    "hard_gate": _one(3, functions.hard_gate),
    "tanh": _one(0, functions.tanh),
    "erf": _one(0, functions.build_erf),
    "exp": _one(0, functions.build_exp),
    "log": _one(0, functions.build_log),
    "sqrt": _one(0, functions.by_llvm("sqrt")),
    "reciprocal": _one(0, functions.reciprocal),
    "abs": _one(0, functions.magnitude),
    "floor": _one(0, functions.by_llvm("floor")),
    "ceil": _one(0, functions.by_llvm("ceil")),
    "round": _one(0, functions.by_llvm("rint")),
    "maximum": _extreme(">"),
    "minimum": _extreme("<"),
    "add": _two("fadd"),
    "subtract": _two("fsub"),
    "multiply": _two("fmul"),
    "divide": _two("fdiv"),
    "prelu": Formula(2, 0, _prelu),
}
"""Add new elementwise operators here."""

_SAME = _one(0, lambda builder, x: x)


def formula(name: str) -> Formula:
    """Raises KernelError for an unknown name."""
    if name not in FORMULAS:
        raise KernelError(unknown("elementwise operator", name, FORMULAS))
    return FORMULAS[name]


@lru_cache(maxsize=ACTIVATIONS_KEPT)
def activation(text: str | None) -> Activation | None:
    """An activation from its text, "name" or "name(number, …)". Raises KernelError for another name, or another number
    of parameters."""
    if text is None:
        return None
    name, _, numbers = text.partition("(")
    try:
        parameters = tuple(float(number) for number in numbers.removesuffix(")").split(",")) if numbers else ()
    except ValueError:
        raise KernelError(f"the activation {text[:80]!r} is not a name with numbers in brackets") from None
    found = FORMULAS.get(name)
    if found is None or found.inputs != 1:
        raise KernelError(unknown("activation", name, [each for each, known in FORMULAS.items() if known.inputs == 1]))
    if len(parameters) != found.parameters:
        raise KernelError(f"{name} takes {found.parameters} parameters, not {len(parameters)}")
    return Activation(name, parameters)


def clamp(text: str | None) -> tuple[float, float] | None:
    """The bounds of an activation that is nothing but a clamp: the kernels of convolutions apply these themselves."""
    match activation(text):
        case Activation("relu", ()):
            return 0.0, float("inf")
        case Activation("relu6", ()):
            return 0.0, 6.0
        case Activation("clip", (low, high)):
            return low, high
    return None


def lanes(parameters: Sequence[float]) -> NDArray[np.float32]:
    """Parameters as the kernels read them: (PARAMETERS, BLOCK), each number in every lane."""
    found = np.zeros((PARAMETERS, BLOCK), np.float32)
    for row, value in zip(found, parameters, strict=False):
        row[:] = value
    return found


@cache
def applied(name: str | None) -> Any:
    """The intrinsic (x, y, p, q, r) → formula; arguments that the formula doesn't take are ignored. None: x itself."""
    chosen = _SAME if name is None else FORMULAS[name]
    inputs, parameters, build = chosen.inputs, chosen.parameters, chosen.build

    @intrinsic
    def apply(typingctx: Any, x: Any, y: Any, p: Any, q: Any, r: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return build(builder, args[:inputs], args[INPUTS : INPUTS + parameters])

        return vec(vec, vec, vec, vec, vec), codegen

    return apply
