"""Emit LLVM IR for vectors of floats: what the builders of the convolution micro-kernels share.

Addresses are 64-bit integers, offsets are bytes. A vector has ``vl`` floats, whatever the size of the CPU's registers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir

from fogconv.ir.precision.elements import ELEMENT_BYTES, Element

Value = Any
"""An llvmlite value; llvmlite has no type annotations."""

Builder = Any

F32 = ir.FloatType()
I8 = ir.IntType(8)
I16 = ir.IntType(16)
I32 = ir.IntType(32)
I64 = ir.IntType(64)


def cpu_family(builder: Builder) -> str:
    """The CPU that the code is for, "x86", "aarch64" or "": instructions that only one has are emitted by this."""
    name = str(builder.module.triple).partition("-")[0]
    return {"x86_64": "x86", "aarch64": "aarch64", "arm64": "aarch64"}.get(name, "")


def vector(vl: int) -> Any:
    return ir.VectorType(F32, vl)


def constant(vl: int, value: float) -> Value:
    return ir.Constant(vector(vl), [float(value)] * vl)


def shifted(builder: Builder, address: Value, offset: Value | int) -> Value:
    """The address plus ``offset`` bytes."""
    if isinstance(offset, int):
        return address if offset == 0 else builder.add(address, I64(offset))
    return builder.add(address, offset)


def pointer(builder: Builder, address: Value, to: Any, offset: int = 0) -> Value:
    """A pointer to an address plus ``offset`` bytes, in the form that folds into an instruction's displacement."""
    base = builder.inttoptr(address, I8.as_pointer())
    if offset:
        base = builder.gep(base, [I64(offset)])
    return builder.bitcast(base, to.as_pointer())


def load(builder: Builder, address: Value, vl: int, offset: int = 0, align: int | None = None) -> Value:
    """Load ``vl`` floats, by default aligned to the vector's size."""
    value = builder.load(pointer(builder, address, vector(vl), offset))
    value.align = 4 * vl if align is None else align
    return value


def store(builder: Builder, value: Value, address: Value, offset: int = 0, align: int | None = None) -> None:
    instruction = builder.store(value, pointer(builder, address, value.type, offset))
    instruction.align = 4 * value.type.count if align is None else align


def load_as(builder: Builder, address: Value, vl: int, offset: int, element: Element, align: int | None = None) -> Value:
    """Load ``vl`` elements, fp32 or of 16 bits, as floats; by default aligned to all of them."""
    align = ELEMENT_BYTES[element] * vl if align is None else align
    if element == "fp32":
        return load(builder, address, vl, offset, align)
    value = builder.load(pointer(builder, address, ir.VectorType(I16, vl), offset))
    value.align = align
    return widened(builder, value, element)


def store_as(builder: Builder, value: Value, address: Value, offset: int, element: Element) -> None:
    """Store floats as such elements, rounded to the nearest, halves to even."""
    value = value if element == "fp32" else narrowed(builder, value, element)
    store(builder, value, address, offset, align=ELEMENT_BYTES[element] * value.type.count)


def widened(builder: Builder, shorts: Value, element: Element) -> Value:
    """Elements of 16 bits as floats: exactly the same numbers."""
    vl = shorts.type.count
    if element == "fp16":
        return builder.fpext(builder.bitcast(shorts, ir.VectorType(ir.HalfType(), vl)), vector(vl))
    words = ir.VectorType(I32, vl)
    return builder.bitcast(builder.shl(builder.zext(shorts, words), ir.Constant(words, [16] * vl)), vector(vl))


def narrowed(builder: Builder, value: Value, element: Element) -> Value:
    """Floats as the bits of elements of 16: the nearest, halves to even; NaN stays NaN. What is too large for fp16 becomes
    infinity."""
    vl = value.type.count
    shorts, words = ir.VectorType(I16, vl), ir.VectorType(I32, vl)
    if element == "fp16":  # one instruction per register on every CPU with F16C, AVX-512 or NEON
        return builder.bitcast(builder.fptrunc(value, ir.VectorType(ir.HalfType(), vl)), shorts)

    def every(number: int) -> Value:
        return ir.Constant(words, [number] * vl)

    # The upper half, rounded; a NaN keeps its upper half.
    bits = builder.bitcast(value, words)
    odd = builder.and_(builder.lshr(bits, every(16)), every(1))
    rounded = builder.add(bits, builder.add(odd, every(0x7FFF)))
    quiet = builder.or_(bits, every(0x400000))
    bits = builder.select(builder.fcmp_unordered("uno", value, value), quiet, rounded)
    return builder.trunc(builder.lshr(bits, every(16)), shorts)


def load_i64(builder: Builder, address: Value, index: int) -> Value:
    """Element ``index`` of an array of 64-bit integers."""
    value = builder.load(pointer(builder, address, I64, 8 * index))
    value.align = 8
    return value


def load_f32(builder: Builder, address: Value, offset: int = 0) -> Value:
    value = builder.load(pointer(builder, address, F32, offset))
    value.align = 4
    return value


def splat(builder: Builder, scalar: Value, vl: int) -> Value:
    undefined = ir.Constant(vector(vl), ir.Undefined)
    one = builder.insert_element(undefined, scalar, I32(0))
    return builder.shuffle_vector(one, undefined, ir.Constant(ir.VectorType(I32, vl), [0] * vl))


def lane_splat(builder: Builder, value: Value, lane: int, vl: int) -> Value:
    """A vector that repeats one lane of another (aarch64 folds this into the multiplication)."""
    undefined = ir.Constant(value.type, ir.Undefined)
    return builder.shuffle_vector(value, undefined, ir.Constant(ir.VectorType(I32, vl), [lane] * vl))


def pick(builder: Builder, a: Value, b: Value, lanes: Sequence[int]) -> Value:
    """A vector of the given lanes of two vectors of equal length; lanes of the second follow those of the first."""
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(I32, len(lanes)), list(lanes)))


def fma(builder: Builder, a: Value, b: Value, c: Value, fused: bool = True) -> Value:
    """a·b + c, with one rounding where the instruction set can."""
    if not fused:  # without the instruction, llvm.fma calls the C library once per float
        return builder.fadd(builder.fmul(a, b), c)
    name = f"llvm.fma.v{a.type.count}f32"
    module = builder.module
    function = module.globals.get(name) or ir.Function(module, ir.FunctionType(a.type, [a.type] * 3), name)
    return builder.call(function, [a, b, c])


def maximum(builder: Builder, bound: Value, value: Value) -> Value:
    """max(bound, value); a NaN value stays NaN, as in torch (one maxps on x86, one fmax on aarch64)."""
    if cpu_family(builder) == "aarch64":
        return _of_two(builder, "llvm.maximum", bound, value)
    return builder.select(builder.fcmp_ordered(">", bound, value), bound, value)


def minimum(builder: Builder, bound: Value, value: Value) -> Value:
    """min(bound, value), likewise."""
    if cpu_family(builder) == "aarch64":
        return _of_two(builder, "llvm.minimum", bound, value)
    return builder.select(builder.fcmp_ordered("<", bound, value), bound, value)


def _of_two(builder: Builder, name: str, a: Value, b: Value) -> Value:
    """One of LLVM's functions of two values, floats or vectors of floats."""
    name += f".v{a.type.count}f32" if isinstance(a.type, ir.VectorType) else ".f32"
    module = builder.module
    function = module.globals.get(name) or ir.Function(module, ir.FunctionType(a.type, [a.type] * 2), name)
    return builder.call(function, [a, b])


def whole(builder: Builder, value: Value) -> Value:
    """The same vector in one register of aarch64, though not all of its lanes are used: LLVM would load it in parts."""
    if cpu_family(builder) != "aarch64":
        return value
    return builder.asm(ir.FunctionType(value.type, [value.type]), "", "=w,0", [value], side_effect=False)


def repeated(builder: Builder, address: Value, vl: int, count: int) -> list[Value]:
    """``count`` times the vector at an address, in registers of their own. On aarch64 a copy of a register takes a slot of
    the units that multiply, and a load does not: there the vector is loaded so many times."""
    values = [load(builder, address, vl)]
    for _ in range(1, count):
        if cpu_family(builder) != "aarch64":
            values.append(values[0])
            continue
        # No instruction, but LLVM can't know that it leaves the memory as it is.
        builder.asm(ir.FunctionType(ir.VoidType(), []), "", "~{memory}", [], side_effect=True)
        values.append(load(builder, address, vl))
    return values


READ_L2, WRITE_L1 = (0, 2), (1, 3)


def prefetch(builder: Builder, address: Value, offset: int = 0, kind: tuple[int, int] = READ_L2) -> None:
    """Prefetch a cache line. Never faults, whatever the address."""
    module = builder.module
    name = "llvm.prefetch.p0"
    signature = ir.FunctionType(ir.VoidType(), [I8.as_pointer(), I32, I32, I32])
    function = module.globals.get(name) or ir.Function(module, signature, name)
    write, locality = kind
    builder.call(function, [pointer(builder, address, I8, offset), I32(write), I32(locality), I32(1)])


def loop(
    builder: Builder,
    count: Value,
    carried: Sequence[Value],
    body: Callable[[Sequence[Value]], Sequence[Value]],
    at_least_once: bool = False,
) -> list[Value]:
    """``carried = body(carried)``, ``count`` times; values stay in registers (phi nodes). Returns the last ones.

    With ``at_least_once`` the test is at the end, which leaves one jump per iteration.
    """
    before = builder.block
    inside, end = builder.append_basic_block("round"), builder.append_basic_block("end")
    if at_least_once:
        builder.branch(inside)
    else:
        builder.cbranch(builder.icmp_signed(">", count, I64(0)), inside, end)
    builder.position_at_end(inside)
    left = builder.phi(I64)
    left.add_incoming(count, before)
    phis = []
    for value in carried:
        phi = builder.phi(value.type)
        phi.add_incoming(value, before)
        phis.append(phi)
    new = body(phis)
    fewer = builder.sub(left, I64(1))
    left.add_incoming(fewer, builder.block)
    for phi, value in zip(phis, new, strict=True):
        phi.add_incoming(value, builder.block)
    last = builder.block
    builder.cbranch(builder.icmp_signed(">", fewer, I64(0)), inside, end)
    builder.position_at_end(end)
    results = []
    for value, first in zip(new, carried, strict=True):
        if at_least_once:
            results.append(value)
            continue
        phi = builder.phi(value.type)
        phi.add_incoming(value, last)
        phi.add_incoming(first, before)
        results.append(phi)
    return results


def when(
    builder: Builder, condition: Value, values: Sequence[Value], body: Callable[[Sequence[Value]], Sequence[Value]]
) -> list[Value]:
    """``values = body(values)`` if the condition holds."""
    before = builder.block
    then, end = builder.append_basic_block("then"), builder.append_basic_block("end")
    builder.cbranch(condition, then, end)
    builder.position_at_end(then)
    new = body(values)
    last = builder.block
    builder.branch(end)
    builder.position_at_end(end)
    results = []
    for old, value in zip(values, new, strict=True):
        phi = builder.phi(value.type)
        phi.add_incoming(value, last)
        phi.add_incoming(old, before)
        results.append(phi)
    return results
