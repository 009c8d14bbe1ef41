"""Vec: 16 floats as one value inside jitted code, so that a kernel written in Python keeps its lanes in registers.

LLVM cuts a Vec to the machine's registers (one of AVX-512, two of AVX2, four of NEON). Addresses are int64; a load or store
needs no alignment, though all of a map's are aligned. Plain loops over 16 lanes would do where lanes are loaded and
stored at once, but LLVM does not keep them in registers where they are accumulated over a window.

    load(a) store(a, v)                 16 floats at an address; load_splat(a): one of them, 16 times
    load_lanes(a, n) store_lanes(…)     the first n of them; the others are not touched and read as 0
    store_between(a, v, low, high)      lanes low to high−1; the others are written back as they were
    align(v, w, n)                      lanes n to n+15 of v and w side by side
    load_word(a) store_word(a, w)       one float as an int32, bit by bit; store_long(a, n): an int64
    add sub mul div fma maximum         lane by lane; maximum keeps NaN
    load_half store_half                the first n of them, in fp16 at the address (round to nearest even)
    load_bfloat store_bfloat            the same in bf16
    splat(x)  zero()  total(v) greatest(v)   the sum, the greatest, of all lanes: one float
    load_float(a) store_float(a, x)     one float
    prefetch(a)                         bring a line into the first cache
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import datamodel, extending, types

from fogconv.ir.geometry import BLOCK
from fogconv.ir.precision.elements import Element
from fogconv.kernels.codegen import activation
from fogconv.kernels.codegen.emit import cpu_family, narrowed, widened
from fogconv.kernels.codegen.emit import maximum as emit_maximum

intrinsic: Any = extending.intrinsic  # numba's annotations lack the codegen's first argument
_Model: Any = datamodel.PrimitiveModel  # type: ignore[attr-defined]

_VEC = ir.VectorType(ir.FloatType(), BLOCK)
_WORDS = ir.VectorType(ir.IntType(32), BLOCK)
_SHORTS = ir.VectorType(ir.IntType(16), BLOCK)


class VecType(types.Type):
    """Numba's type of a Vec."""

    def __init__(self) -> None:
        super().__init__(name=f"Vec{BLOCK}f32")


vec = VecType()


@extending.register_model(VecType)
class _VecModel(_Model):  # type: ignore[misc]
    def __init__(self, manager: Any, numba_type: Any) -> None:
        super().__init__(manager, numba_type, _VEC)


def _address(builder: ir.IRBuilder, address: ir.Value) -> ir.Value:
    return builder.inttoptr(address, _VEC.as_pointer())


def emit_load(builder: ir.IRBuilder, address: ir.Value) -> ir.Value:
    """Emit `load`; the other ``emit_…`` likewise, for intrinsics that are built of several."""
    return builder.load(_address(builder, address), align=4)


def emit_store(builder: ir.IRBuilder, address: ir.Value, value: ir.Value) -> None:
    builder.store(value, _address(builder, address), align=4)


def emit_load_splat(builder: ir.IRBuilder, address: ir.Value) -> ir.Value:
    undefined = ir.Constant(_VEC, ir.Undefined)
    pointer = builder.inttoptr(address, ir.FloatType().as_pointer())
    one = builder.insert_element(undefined, builder.load(pointer, align=4), ir.Constant(ir.IntType(32), 0))
    zeros = ir.Constant(_WORDS, [0] * BLOCK)
    return builder.shuffle_vector(one, undefined, zeros)


def emit_interleave(builder: ir.IRBuilder, a: ir.Value, b: ir.Value, half: int) -> ir.Value:
    """a0 b0 a1 b1 … of the lower (0) or the upper (1) halves."""
    first = half * BLOCK // 2
    lanes = [lane + other for lane in range(first, first + BLOCK // 2) for other in (0, BLOCK)]
    return builder.shuffle_vector(a, b, ir.Constant(_WORDS, lanes))


def emit_prefetch(builder: ir.IRBuilder, address: ir.Value) -> None:
    pointer = builder.inttoptr(address, ir.IntType(8).as_pointer())
    read, near, data = (ir.Constant(ir.IntType(32), value) for value in (0, 3, 1))
    activation.call_intrinsic(builder, "llvm.prefetch.p0", ir.VoidType(), pointer, read, near, data)


@intrinsic
def load(typingctx: Any, address: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return emit_load(builder, args[0])

    return vec(types.int64), codegen


@intrinsic
def load_splat(typingctx: Any, address: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return emit_load_splat(builder, args[0])

    return vec(types.int64), codegen


@intrinsic
def store(typingctx: Any, address: Any, value: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        emit_store(builder, args[0], args[1])
        return context.get_dummy_value()

    return types.void(types.int64, vec), codegen


def _first_lanes(builder: ir.IRBuilder, lanes: ir.Value) -> ir.Value:
    """<16 x i1>: lane number < lanes."""
    word = ir.IntType(32)
    many = ir.VectorType(word, BLOCK)
    one = builder.insert_element(ir.Constant(many, ir.Undefined), builder.trunc(lanes, word), ir.Constant(word, 0))
    all_ = builder.shuffle_vector(one, ir.Constant(many, ir.Undefined), ir.Constant(many, [0] * BLOCK))
    return builder.icmp_signed("<", ir.Constant(many, list(range(BLOCK))), all_)


@intrinsic
def load_lanes(typingctx: Any, address: Any, lanes: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer, mask = _address(builder, args[0]), _first_lanes(builder, args[1])
        align = ir.Constant(ir.IntType(32), 4)
        zero = activation.constant(_VEC, 0.0)
        return activation.call_intrinsic(builder, "llvm.masked.load.v16f32.p0", _VEC, pointer, align, mask, zero)

    return vec(types.int64, types.int64), codegen


@intrinsic
def store_lanes(typingctx: Any, address: Any, value: Any, lanes: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer, mask = _address(builder, args[0]), _first_lanes(builder, args[2])
        align = ir.Constant(ir.IntType(32), 4)
        void = ir.VoidType()
        activation.call_intrinsic(builder, "llvm.masked.store.v16f32.p0", void, args[1], pointer, align, mask)
        return context.get_dummy_value()

    return types.void(types.int64, vec, types.int64), codegen


def _narrow_pair(element: Element) -> tuple[Any, Any]:
    """The load and the store of one 16-bit format; of the first ``lanes`` floats only, and the others read as 0."""

    @intrinsic
    def load_(typingctx: Any, address: Any, lanes: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            pointer = builder.inttoptr(args[0], _SHORTS.as_pointer())
            mask, align = _first_lanes(builder, args[1]), ir.Constant(ir.IntType(32), 2)
            none = activation.constant(_SHORTS, 0)
            name = "llvm.masked.load.v16i16.p0"
            value = activation.call_intrinsic(builder, name, _SHORTS, pointer, align, mask, none)
            return widened(builder, value, element)

        return vec(types.int64, types.int64), codegen

    @intrinsic
    def store_(typingctx: Any, address: Any, value: Any, lanes: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            pointer = builder.inttoptr(args[0], _SHORTS.as_pointer())
            mask, align = _first_lanes(builder, args[2]), ir.Constant(ir.IntType(32), 2)
            name, value = "llvm.masked.store.v16i16.p0", narrowed(builder, args[1], element)
            activation.call_intrinsic(builder, name, ir.VoidType(), value, pointer, align, mask)
            return context.get_dummy_value()

        return types.void(types.int64, vec, types.int64), codegen

    return load_, store_


load_half, store_half = _narrow_pair("fp16")
load_bfloat, store_bfloat = _narrow_pair("bf16")


@intrinsic
def store_between(typingctx: Any, address: Any, value: Any, low: Any, high: Any) -> Any:
    """Read, blend and write: unlike a masked store it is fast on every instruction set."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = _address(builder, args[0])
        old = builder.load(pointer, align=4)
        value = builder.select(_first_lanes(builder, args[3]), args[1], old)
        value = builder.select(_first_lanes(builder, args[2]), old, value)
        builder.store(value, pointer, align=4)
        return context.get_dummy_value()

    return types.void(types.int64, vec, types.int64, types.int64), codegen


@intrinsic
def align(typingctx: Any, low: Any, high: Any, first: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        low, high, first = args
        start = builder.block
        done = builder.append_basic_block("aligned")
        switch = builder.switch(first, done)
        results = [(low, start)]
        for shift in range(1, BLOCK):
            block = builder.append_basic_block(f"shift{shift}")
            switch.add_case(ir.Constant(first.type, shift), block)
            builder.position_at_end(block)
            lanes = ir.Constant(ir.VectorType(ir.IntType(32), BLOCK), list(range(shift, shift + BLOCK)))
            results.append((builder.shuffle_vector(low, high, lanes), block))
            builder.branch(done)
        builder.position_at_end(done)
        phi = builder.phi(_VEC)
        for result, block in results:
            phi.add_incoming(result, block)
        return phi

    return vec(vec, vec, types.int64), codegen


@intrinsic
def load_word(typingctx: Any, address: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load(builder.inttoptr(args[0], ir.IntType(32).as_pointer()), align=4)

    return types.int32(types.int64), codegen


@intrinsic
def store_word(typingctx: Any, address: Any, word: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.store(args[1], builder.inttoptr(args[0], ir.IntType(32).as_pointer()), align=4)
        return context.get_dummy_value()

    return types.void(types.int64, types.int32), codegen


@intrinsic
def store_long(typingctx: Any, address: Any, value: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.store(args[1], builder.inttoptr(args[0], ir.IntType(64).as_pointer()), align=8)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), codegen


def _elementwise(method: str) -> Any:
    @intrinsic
    def operation(typingctx: Any, a: Any, b: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return getattr(builder, method)(*args)

        return vec(vec, vec), codegen

    return operation


add, sub, mul, div = (_elementwise(method) for method in ("fadd", "fsub", "fmul", "fdiv"))


@intrinsic
def fma(typingctx: Any, a: Any, b: Any, c: Any) -> Any:
    """a·b + c, rounded once."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return activation.fma(builder, *args)

    return vec(vec, vec, vec), codegen


@intrinsic
def maximum(typingctx: Any, best: Any, value: Any) -> Any:
    """As torch's max pooling: a value that is greater, or NaN, replaces the best."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        best, value = args
        if cpu_family(builder) == "aarch64":
            return emit_maximum(builder, best, value)
        # not (value <= best) takes every NaN in value; a NaN in best must then be kept against a number.
        taken = builder.fcmp_unordered(">", value, best)
        kept = builder.fcmp_unordered("uno", best, best)
        return builder.select(kept, best, builder.select(taken, value, best))

    return vec(vec, vec), codegen


@intrinsic
def splat(typingctx: Any, x: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        undefined = ir.Constant(_VEC, ir.Undefined)
        one = builder.insert_element(undefined, args[0], ir.Constant(ir.IntType(32), 0))
        zeros = ir.Constant(ir.VectorType(ir.IntType(32), BLOCK), [0] * BLOCK)
        return builder.shuffle_vector(one, undefined, zeros)

    return vec(types.float32), codegen


def _across(combine: Any) -> Any:
    """All lanes combined into one float: halves with halves, so that no sum is longer than the others."""

    @intrinsic
    def across(typingctx: Any, value: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            [value] = args
            half = BLOCK // 2
            while half:
                lanes = [lane + half if lane < half else lane for lane in range(BLOCK)]
                other = builder.shuffle_vector(value, value, ir.Constant(_WORDS, lanes))
                value = combine(builder, value, other)
                half //= 2
            return builder.extract_element(value, ir.Constant(ir.IntType(32), 0))

        return types.float32(vec), codegen

    return across


def _greater(builder: ir.IRBuilder, a: ir.Value, b: ir.Value) -> ir.Value:
    return builder.select(builder.fcmp_unordered("uno", a, a), a, builder.select(builder.fcmp_ordered(">", a, b), a, b))


total = _across(lambda builder, a, b: builder.fadd(a, b))
greatest = _across(_greater)


@intrinsic
def load_float(typingctx: Any, address: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load(builder.inttoptr(args[0], ir.FloatType().as_pointer()), align=4)

    return types.float32(types.int64), codegen


@intrinsic
def store_float(typingctx: Any, address: Any, value: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.store(args[1], builder.inttoptr(args[0], ir.FloatType().as_pointer()), align=4)
        return context.get_dummy_value()

    return types.void(types.int64, types.float32), codegen


@intrinsic
def zero(typingctx: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return activation.constant(_VEC, 0.0)

    return vec(), codegen


@intrinsic
def prefetch(typingctx: Any, address: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        emit_prefetch(builder, args[0])
        return context.get_dummy_value()

    return types.void(types.int64), codegen
