"""Activations as LLVM IR on vectors of floats: written once, used by every kernel's epilogue.

torch's semantics, NaN included (relu(NaN) = NaN). Sources: silu, hardswish, sigmoid, hardsigmoid and relu6 as torch's CPU
kernels compute them; exp by Cody–Waite reduction and the polynomial of Cephes' expf (S. Moshier), below 1.5 ulp.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir

from fogconv.errors import KernelError
from fogconv.kernels.codegen import emit

CODES: dict[str | None, int] = {
    None: 0,
    "relu": 1,
    "relu6": 2,
    "silu": 3,
    "hardswish": 4,
    "sigmoid": 5,
    "hardsigmoid": 6,
}
"""The number of each activation, for interfaces that pass only numbers."""

# exp(x) = 2^n · (1 + r + r²·P(r)), n = round(x/ln 2), r = x − n·ln 2, |r| <= ln(2)/2
EXP_POLYNOMIAL = (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1)
"""P's coefficients, the highest power first."""
LOG2_E = 1.44269504088896341
LN2_HIGH = 0.693359375
LN2_LOW = -2.12194440e-4
ROUND = 12582912.0
"""1.5·2²³: adding it to |t| < 2²² leaves round(t) in the low bits of the sum."""
EXP_RANGE = (-88.0, 88.8)
"""Beyond these the result is 0 or infinity. Results below 2^-126 are flushed to 0, those from 2^127.5 on to infinity."""


def code(activation: str | None) -> int:
    """The number of an activation. Raises KernelError for an unknown name."""
    if activation not in CODES:
        raise KernelError(f"there is no activation {activation!r}; there are {', '.join(filter(None, CODES))}")
    return CODES[activation]


def build(builder: ir.IRBuilder, activation: str | None, x: ir.Value) -> ir.Value:
    """Emit activation(x); ``x`` is a float or a vector of floats."""
    return _BUILD[activation](builder, x)


def build_exp(builder: ir.IRBuilder, x: ir.Value) -> ir.Value:
    """Emit exp(x). NaN stays NaN, exp(−∞) = 0, exp(∞) = ∞."""
    low, high = (constant(x.type, bound) for bound in EXP_RANGE)
    x = emit.minimum(builder, high, emit.maximum(builder, low, x))
    magic = constant(x.type, ROUND)
    rounded = fma(builder, x, constant(x.type, LOG2_E), magic)
    n = builder.fsub(rounded, magic)
    r = fma(builder, n, constant(x.type, -LN2_HIGH), x)
    r = fma(builder, n, constant(x.type, -LN2_LOW), r)
    p = constant(x.type, EXP_POLYNOMIAL[0])
    for coefficient in EXP_POLYNOMIAL[1:]:
        p = fma(builder, p, r, constant(x.type, coefficient))
    p = fma(builder, p, builder.fmul(r, r), r)
    p = builder.fadd(p, constant(x.type, 1.0))
    # 2^n through the exponent's bits: n + 127 shifted up; the bits of ROUND above n are shifted out.
    bits = _integers(x.type)
    n_bits = builder.add(builder.bitcast(rounded, bits), constant(bits, 127))
    scale = builder.bitcast(builder.shl(n_bits, constant(bits, 23)), x.type)
    return builder.fmul(p, scale)


def constant(type_: ir.Type, value: float) -> ir.Constant:
    """The value in every lane of a scalar or vector type."""
    return ir.Constant(type_, [value] * type_.count if isinstance(type_, ir.VectorType) else value)


def fma(builder: ir.IRBuilder, a: ir.Value, b: ir.Value, c: ir.Value) -> ir.Value:
    """Emit a·b + c with one rounding."""
    suffix = f"v{a.type.count}f32" if isinstance(a.type, ir.VectorType) else "f32"
    return call_intrinsic(builder, f"llvm.fma.{suffix}", a.type, a, b, c)


def call_intrinsic(builder: ir.IRBuilder, name: str, result: ir.Type, *arguments: ir.Value) -> ir.Value:
    """Emit a call of one of LLVM's intrinsics by its full name."""
    module = builder.module
    function = module.globals.get(name)
    if function is None:
        function = ir.Function(module, ir.FunctionType(result, [argument.type for argument in arguments]), name)
    return builder.call(function, arguments)


def _integers(type_: ir.Type) -> ir.Type:
    word = ir.IntType(32)
    return ir.VectorType(word, type_.count) if isinstance(type_, ir.VectorType) else word


def _none(builder: ir.IRBuilder, x: ir.Value) -> ir.Value:
    return x


def _relu(builder: ir.IRBuilder, x: ir.Value) -> ir.Value:
    return emit.maximum(builder, constant(x.type, 0.0), x)


def _relu6(builder: ir.IRBuilder, x: ir.Value) -> ir.Value:
    return emit.minimum(builder, constant(x.type, 6.0), _relu(builder, x))


def _sigmoid_denominator(builder: ir.IRBuilder, x: ir.Value) -> ir.Value:
    return builder.fadd(build_exp(builder, builder.fsub(constant(x.type, -0.0), x)), constant(x.type, 1.0))


def _sigmoid(builder: ir.IRBuilder, x: ir.Value) -> ir.Value:
    return builder.fdiv(constant(x.type, 1.0), _sigmoid_denominator(builder, x))


def _silu(builder: ir.IRBuilder, x: ir.Value) -> ir.Value:
    return builder.fdiv(x, _sigmoid_denominator(builder, x))


def _ramp(builder: ir.IRBuilder, x: ir.Value) -> ir.Value:
    """relu6(x + 3)."""
    return _relu6(builder, builder.fadd(x, constant(x.type, 3.0)))


def _hardsigmoid(builder: ir.IRBuilder, x: ir.Value) -> ir.Value:
    # A product instead of a division by 6: it differs by at most 1 ulp and is several times as fast.
    return builder.fmul(_ramp(builder, x), constant(x.type, 1.0 / 6.0))


def _hardswish(builder: ir.IRBuilder, x: ir.Value) -> ir.Value:
    return builder.fmul(builder.fmul(x, _ramp(builder, x)), constant(x.type, 1.0 / 6.0))


_BUILD: dict[str | None, Callable[[Any, Any], Any]] = {
    None: _none,
    "relu": _relu,
    "relu6": _relu6,
    "silu": _silu,
    "hardswish": _hardswish,
    "sigmoid": _sigmoid,
    "hardsigmoid": _hardsigmoid,
}
