"""Functions of one number as LLVM IR on vectors of floats: activations, and what they are made of.

torch's semantics, NaN included (relu(NaN) = NaN). A function takes the builder, the value (a float or a vector of floats)
and its parameters as values of the same type. `fogconv.kernels.codegen.formulas` gives them their names.

Sources: silu, hardswish, sigmoid, hardsigmoid and relu6 as torch's CPU kernels compute them; exp by Cody–Waite reduction
and the polynomial of Cephes' expf (S. Moshier), below 1.5 ulp; log by 2·artanh((m−1)/(m+1)) on m in [√½, √2); erf by the
minimax polynomials that N. Juffa published for CUDA, below 1.5 ulp.
"""

from __future__ import annotations

import math
from typing import Any

from llvmlite import ir

from fogconv.kernels.codegen import emit

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


NEAR_ZERO = 0.34
"""Below ln(2)/2 in magnitude the polynomial of exp needs no reduction."""
TINY = 2.0**-126
"""The least normal number."""
SQRT_HALF_BITS = 0x3F3504F3
ERF_FAR = (-1.72853470e-5, 3.83197126e-4, -3.88396438e-3, 2.42546219e-2, -1.06777877e-1, -6.34846687e-1, -1.28717512e-1)
ERF_NEAR = (-5.96761703e-4, 4.99119423e-3, -2.67681349e-2, 1.12819925e-1, -3.76125336e-1, 1.28379166e-1)
ERF_BORDER = 0.921875


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


def build_expm1(builder: ir.IRBuilder, x: ir.Value) -> ir.Value:
    """Emit exp(x) − 1, without cancellation near 0."""
    p = constant(x.type, EXP_POLYNOMIAL[0])
    for coefficient in EXP_POLYNOMIAL[1:]:
        p = fma(builder, p, x, constant(x.type, coefficient))
    near = fma(builder, p, builder.fmul(x, x), x)
    far = builder.fsub(build_exp(builder, x), constant(x.type, 1.0))
    return builder.select(builder.fcmp_ordered("<", magnitude(builder, x), constant(x.type, NEAR_ZERO)), near, far)


def build_log(builder: ir.IRBuilder, x: ir.Value) -> ir.Value:
    """Emit log(x). log(0) = −∞, log(x < 0) = NaN."""
    bits, one = _integers(x.type), constant(x.type, 1.0)
    tiny = builder.fcmp_ordered("<", x, constant(x.type, TINY))
    scaled = builder.select(tiny, builder.fmul(x, constant(x.type, 2.0**23)), x)
    raw = builder.bitcast(scaled, bits)
    shifted = builder.sub(raw, constant(bits, SQRT_HALF_BITS))
    n = builder.ashr(shifted, constant(bits, 23))
    m = builder.bitcast(builder.sub(raw, builder.shl(n, constant(bits, 23))), x.type)
    power = builder.fsub(builder.sitofp(n, x.type), builder.select(tiny, constant(x.type, 23.0), constant(x.type, 0.0)))
    low = build_log1p(builder, builder.fsub(m, one), terms=5)
    value = fma(builder, power, constant(x.type, LN2_HIGH), fma(builder, power, constant(x.type, LN2_LOW), low))
    infinity = constant(x.type, math.inf)
    value = builder.select(builder.fcmp_ordered("<", x, infinity), value, x)  # ∞ and NaN are their own logarithms
    value = builder.select(builder.fcmp_ordered("==", x, constant(x.type, 0.0)), constant(x.type, -math.inf), value)
    return builder.select(builder.fcmp_ordered("<", x, constant(x.type, 0.0)), constant(x.type, math.nan), value)


def build_log1p(builder: ir.IRBuilder, x: ir.Value, terms: int = 8) -> ir.Value:
    """Emit log(1 + x) for x in [−0.3, 1] as 2·artanh(x/(2 + x)); five terms are enough for |x| <= 0.42."""
    s = builder.fdiv(x, builder.fadd(x, constant(x.type, 2.0)))
    z = builder.fmul(s, s)
    p = constant(x.type, 2.0 / (2 * terms - 1))
    for k in range(terms - 2, 0, -1):
        p = fma(builder, p, z, constant(x.type, 2.0 / (2 * k + 1)))
    return fma(builder, builder.fmul(p, z), s, builder.fadd(s, s))


def build_erf(builder: ir.IRBuilder, x: ir.Value) -> ir.Value:
    """Emit erf(x)."""
    t, square = magnitude(builder, x), builder.fmul(x, x)
    r = fma(builder, constant(x.type, ERF_FAR[0]), t, constant(x.type, ERF_FAR[1]))
    u = fma(builder, constant(x.type, ERF_FAR[2]), t, constant(x.type, ERF_FAR[3]))
    r = fma(builder, r, square, u)
    for coefficient in ERF_FAR[4:]:
        r = fma(builder, r, t, constant(x.type, coefficient))
    r = fma(builder, r, t, builder.fsub(constant(x.type, -0.0), t))
    far = with_sign(builder, builder.fsub(constant(x.type, 1.0), build_exp(builder, r)), x)
    p = constant(x.type, ERF_NEAR[0])
    for coefficient in ERF_NEAR[1:]:
        p = fma(builder, p, square, constant(x.type, coefficient))
    near = fma(builder, p, x, x)
    return builder.select(builder.fcmp_ordered(">", t, constant(x.type, ERF_BORDER)), far, near)


def magnitude(builder: ir.IRBuilder, x: ir.Value) -> ir.Value:
    """Emit |x|."""
    bits = _integers(x.type)
    return builder.bitcast(builder.and_(builder.bitcast(x, bits), constant(bits, 0x7FFFFFFF)), x.type)


def with_sign(builder: ir.IRBuilder, x: ir.Value, of: ir.Value) -> ir.Value:
    """Emit a value that is not negative with the sign of another."""
    bits = _integers(x.type)
    sign = builder.and_(builder.bitcast(of, bits), constant(bits, 0x80000000))
    return builder.bitcast(builder.or_(builder.bitcast(x, bits), sign), x.type)


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


def relu(builder: ir.IRBuilder, x: ir.Value) -> ir.Value:
    return emit.maximum(builder, constant(x.type, 0.0), x)


def relu6(builder: ir.IRBuilder, x: ir.Value) -> ir.Value:
    return emit.minimum(builder, constant(x.type, 6.0), relu(builder, x))


def _sigmoid_denominator(builder: ir.IRBuilder, x: ir.Value) -> ir.Value:
    return builder.fadd(build_exp(builder, builder.fsub(constant(x.type, -0.0), x)), constant(x.type, 1.0))


def sigmoid(builder: ir.IRBuilder, x: ir.Value) -> ir.Value:
    return builder.fdiv(constant(x.type, 1.0), _sigmoid_denominator(builder, x))


def silu(builder: ir.IRBuilder, x: ir.Value) -> ir.Value:
    return builder.fdiv(x, _sigmoid_denominator(builder, x))


def _ramp(builder: ir.IRBuilder, x: ir.Value) -> ir.Value:
    """relu6(x + 3)."""
    return relu6(builder, builder.fadd(x, constant(x.type, 3.0)))


def hardsigmoid(builder: ir.IRBuilder, x: ir.Value) -> ir.Value:
    # A product instead of a division by 6: it differs by at most 1 ulp and is several times as fast.
    return builder.fmul(_ramp(builder, x), constant(x.type, 1.0 / 6.0))


def hardswish(builder: ir.IRBuilder, x: ir.Value) -> ir.Value:
    return builder.fmul(builder.fmul(x, _ramp(builder, x)), constant(x.type, 1.0 / 6.0))


def clip(builder: ir.IRBuilder, x: ir.Value, low: ir.Value, high: ir.Value) -> ir.Value:
    """min(high, max(low, x)), as torch's clamp: NaN stays NaN, and where low > high the result is high."""
    x = builder.select(builder.fcmp_ordered("<", x, low), low, x)
    return builder.select(builder.fcmp_ordered(">", x, high), high, x)


def leaky_relu(builder: ir.IRBuilder, x: ir.Value, slope: ir.Value) -> ir.Value:
    return builder.select(builder.fcmp_ordered(">", x, constant(x.type, 0.0)), x, builder.fmul(x, slope))


def elu(builder: ir.IRBuilder, x: ir.Value, alpha: ir.Value, scale: ir.Value, inner: ir.Value) -> ir.Value:
    """scale·x for x > 0, else scale·alpha·(exp(inner·x) − 1): elu, selu and celu."""
    below = builder.fmul(builder.fmul(scale, alpha), build_expm1(builder, builder.fmul(x, inner)))
    return builder.select(builder.fcmp_ordered(">", x, constant(x.type, 0.0)), builder.fmul(x, scale), below)


def gelu(builder: ir.IRBuilder, x: ir.Value, scale: ir.Value) -> ir.Value:
    """scale·x·(1 + erf(x/√2)); GELU is that with a scale of 1/2."""
    one = constant(x.type, 1.0)
    erf = build_erf(builder, builder.fmul(x, constant(x.type, math.sqrt(0.5))))
    return builder.fmul(builder.fmul(x, scale), builder.fadd(one, erf))


def gelu_tanh(builder: ir.IRBuilder, x: ir.Value) -> ir.Value:
    """x/2·(1 + tanh(u)), u = √(2/π)·(x + 0.044715·x³), as x/(1 + exp(−2u)), which does not cancel."""
    cubic = fma(builder, builder.fmul(x, x), constant(x.type, 0.044715), constant(x.type, 1.0))
    exponent = builder.fmul(builder.fmul(x, cubic), constant(x.type, -2.0 * math.sqrt(2.0 / math.pi)))
    return builder.fdiv(x, builder.fadd(build_exp(builder, exponent), constant(x.type, 1.0)))


def swish(builder: ir.IRBuilder, x: ir.Value, beta: ir.Value) -> ir.Value:
    """x·sigmoid(beta·x)."""
    return builder.fdiv(x, _sigmoid_denominator(builder, builder.fmul(x, beta)))


def softplus(builder: ir.IRBuilder, x: ir.Value, beta: ir.Value, threshold: ir.Value) -> ir.Value:
    """log(1 + exp(beta·x))/beta; x where beta·x > threshold."""
    z, zero = builder.fmul(x, beta), constant(x.type, 0.0)
    above = builder.select(builder.fcmp_unordered(">", z, zero), z, zero)
    small = build_exp(builder, builder.fsub(constant(x.type, -0.0), magnitude(builder, z)))
    soft = builder.fdiv(builder.fadd(above, build_log1p(builder, small)), beta)
    return builder.select(builder.fcmp_ordered(">", z, threshold), x, soft)


def mish(builder: ir.IRBuilder, x: ir.Value) -> ir.Value:
    """x·tanh(log(1 + exp(x))) as x·n/(n + 2), n = e·(e + 2), e = exp(x): nothing cancels. From 20 on it is x."""
    twenty, two = constant(x.type, 20.0), constant(x.type, 2.0)
    large = builder.fcmp_ordered(">", x, twenty)
    e = build_exp(builder, builder.select(large, twenty, x))
    n = builder.fmul(e, builder.fadd(e, two))
    return builder.select(large, x, builder.fmul(x, builder.fdiv(n, builder.fadd(n, two))))


def hard_sigmoid(builder: ir.IRBuilder, x: ir.Value, alpha: ir.Value, beta: ir.Value) -> ir.Value:
    """alpha·x + beta between 0 and 1."""
    return clip(builder, fma(builder, x, alpha, beta), constant(x.type, 0.0), constant(x.type, 1.0))


def hard_gate(builder: ir.IRBuilder, x: ir.Value, alpha: ir.Value, beta: ir.Value, high: ir.Value) -> ir.Value:
    """x times (alpha·x + beta between 0 and high): the forms of hard-swish."""
    return builder.fmul(x, clip(builder, fma(builder, x, alpha, beta), constant(x.type, 0.0), high))


def tanh(builder: ir.IRBuilder, x: ir.Value) -> ir.Value:
    """By exp(−2|x|) − 1, which neither cancels nor overflows."""
    t = build_expm1(builder, builder.fmul(magnitude(builder, x), constant(x.type, -2.0)))
    positive = builder.fdiv(builder.fsub(constant(x.type, -0.0), t), builder.fadd(t, constant(x.type, 2.0)))
    return with_sign(builder, positive, x)


def softsign(builder: ir.IRBuilder, x: ir.Value) -> ir.Value:
    return builder.fdiv(x, builder.fadd(magnitude(builder, x), constant(x.type, 1.0)))


def reciprocal(builder: ir.IRBuilder, x: ir.Value) -> ir.Value:
    return builder.fdiv(constant(x.type, 1.0), x)


def by_llvm(name: str) -> Any:
    """A function that LLVM has: sqrt, floor, ceil, rint (half to even)."""

    def build(builder: ir.IRBuilder, x: ir.Value) -> ir.Value:
        suffix = f"v{x.type.count}f32" if isinstance(x.type, ir.VectorType) else "f32"
        return call_intrinsic(builder, f"llvm.{name}.{suffix}", x.type, x)

    return build
