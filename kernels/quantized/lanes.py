"""Ints: 16 int32 as one value inside jitted code, beside `fogconv.kernels.codegen.vector`'s 16 floats.

    load_bytes(a) load_ints(a)          16 bytes, widened without sign; 16 int32
    store_ints(a, v) store_floats(a, v)
    splat(n)                            an int64, 16 times
    add sub mul greatest                lane by lane
    floats(v)                           to 16 floats, rounded to nearest even
    store_low(a, v, n)                  the lowest bytes of the first n
    store_bytes(a, f, low, high, zero, n)   the first n of 16 floats as bytes: clamp(rne(f), low, high) + zero
    store_four(a, f, g, h, i, low, high, zero)   four of these at once
    store_few(…)                        the same to a narrow map's pixel
    load_table(a)                       a table of 256 bytes, as a value
    look_up(to, from, table, n)         its entries for the first n of 16 bytes
    look_up_four(to, from, table)       for 64 bytes

A store of fewer lanes than there are leaves the others as they were.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import datamodel, extending, types

from fogconv.ir.geometry import BLOCK, NARROW
from fogconv.kernels.codegen import emit as v
from fogconv.kernels.codegen.isa import cpu_features, host_family, host_isa
from fogconv.kernels.codegen.vector import vec
from fogconv.kernels.quantized.arithmetic import EmittedTarget

intrinsic: Any = extending.intrinsic
_Model: Any = datamodel.PrimitiveModel  # type: ignore[attr-defined]

_INTS = ir.VectorType(ir.IntType(32), BLOCK)
_BYTES = ir.VectorType(ir.IntType(8), BLOCK)


class IntsType(types.Type):
    """Numba's type of Ints."""

    def __init__(self) -> None:
        super().__init__(name=f"Vec{BLOCK}i32")


ints = IntsType()


@extending.register_model(IntsType)
class _IntsModel(_Model):  # type: ignore[misc]
    def __init__(self, manager: Any, numba_type: Any) -> None:
        super().__init__(manager, numba_type, _INTS)


@intrinsic
def load_bytes(typingctx: Any, address: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        loaded = builder.load(v.pointer(builder, args[0], _BYTES))
        loaded.align = 1
        return builder.zext(loaded, _INTS)

    return ints(types.int64), codegen


@intrinsic
def load_ints(typingctx: Any, address: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        loaded = builder.load(v.pointer(builder, args[0], _INTS))
        loaded.align = 4
        return loaded

    return ints(types.int64), codegen


@intrinsic
def store_ints(typingctx: Any, address: Any, value: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        v.store(builder, args[1], args[0], align=4)
        return context.get_dummy_value()

    return types.void(types.int64, ints), codegen


@intrinsic
def splat(typingctx: Any, value: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _splat(builder, builder.trunc(args[0], v.I32))

    return ints(types.int64), codegen


@intrinsic
def floats(typingctx: Any, value: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.sitofp(args[0], v.vector(BLOCK))

    return vec(ints), codegen


def _of_two(combine: Any) -> Any:
    @intrinsic
    def operation(typingctx: Any, a: Any, b: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return combine(builder, *args)

        return ints(ints, ints), codegen

    return operation


add = _of_two(lambda builder, a, b: builder.add(a, b))
sub = _of_two(lambda builder, a, b: builder.sub(a, b))
mul = _of_two(lambda builder, a, b: builder.mul(a, b))
greatest = _of_two(lambda builder, a, b: builder.select(builder.icmp_signed(">", a, b), a, b))


@intrinsic
def store_low(typingctx: Any, address: Any, value: Any, count: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        address, value, count = args
        _store(builder, address, builder.trunc(value, _BYTES), count)
        return context.get_dummy_value()

    return types.void(types.int64, ints, types.int64), codegen


@intrinsic
def store_bytes(typingctx: Any, address: Any, value: Any, low: Any, high: Any, zero: Any, count: Any) -> Any:
    """``low`` and ``high`` are floats, less the zero."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        address, value, low, high, zero, count = args
        _store(builder, address, EmittedTarget(low, high, zero).bytes_of(builder, value), count)
        return context.get_dummy_value()

    return types.void(types.int64, vec, vec, vec, ints, types.int64), codegen


@intrinsic
def store_four(typingctx: Any, address: Any, a: Any, b: Any, c: Any, d: Any, low: Any, high: Any, zero: Any) -> Any:
    """64 bytes, those of `store_bytes` for four vectors, which take fewer instructions together."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        address, *four, low, high, zero = args
        target = EmittedTarget(low, high, zero)
        if v.cpu_family(builder) not in ("x86", "aarch64"):
            for number, value in enumerate(four):
                v.store(builder, target.bytes_of(builder, value), address, BLOCK * number, align=1)
            return context.get_dummy_value()
        for first in range(0, len(four) * BLOCK, 4 * length):
            parts = [first + length * n for n in range(4)]
            pieces = [v.pick(builder, four[at // BLOCK], four[at // BLOCK], _range(at % BLOCK)) for at in parts]
            narrow = EmittedTarget(*(v.pick(builder, bound, bound, range(length)) for bound in (low, high, zero)))
            v.store(builder, narrow.packed(builder, pieces), address, first, align=1)
        return context.get_dummy_value()

    length = host_isa().vector_length

    def _range(start: int) -> range:
        return range(start, start + length)

    return types.void(types.int64, vec, vec, vec, vec, vec, vec, ints), codegen


@intrinsic
def store_few(typingctx: Any, address: Any, value: Any, low: Any, high: Any, zero: Any, count: Any) -> Any:
    """`store_bytes` to a pixel of a narrow map, of 4 bytes."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        address, value, low, high, zero, count = args
        few = v.pick(builder, value, value, range(NARROW))
        bounds = [v.pick(builder, bound, bound, range(NARROW)) for bound in (low, high, zero)]
        _store(builder, address, EmittedTarget(*bounds).bytes_of(builder, few), count)
        return context.get_dummy_value()

    return types.void(types.int64, vec, vec, vec, ints, types.int64), codegen


@intrinsic
def store_ints_between(typingctx: Any, address: Any, value: Any, count: Any) -> Any:
    """The first ``count`` int32."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _store(builder, *args)
        return context.get_dummy_value()

    return types.void(types.int64, ints, types.int64), codegen


class TableType(types.Type):
    """Numba's type of a table of 256 bytes: a vector of them where an instruction looks up in registers, else their
    address."""

    def __init__(self) -> None:
        super().__init__(name=f"Table {_table_kind()}")


def _in_registers() -> str:
    """The instruction that looks up in registers: on x86 it belongs to AVX-512."""
    if host_family() == "aarch64":
        return "tbl"
    return "vpermi2b" if host_isa().vector_length == BLOCK and "avx512vbmi" in cpu_features() else ""


def _table_kind() -> Any:
    return ir.VectorType(v.I8, 256) if _in_registers() else v.I64


table = TableType()


@extending.register_model(TableType)
class _TableModel(_Model):  # type: ignore[misc]
    def __init__(self, manager: Any, numba_type: Any) -> None:
        super().__init__(manager, numba_type, _table_kind())


@intrinsic
def load_table(typingctx: Any, address: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if not _in_registers():
            return args[0]
        loaded = builder.load(v.pointer(builder, args[0], _table_kind()))
        loaded.align = 1
        return loaded

    return table(types.int64), codegen


@intrinsic
def look_up(typingctx: Any, to: Any, source: Any, entries: Any, count: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        to, source, entries, count = args
        loaded = builder.load(v.pointer(builder, source, _BYTES))
        loaded.align = 1
        _store(builder, to, _looked_up(builder, loaded, entries), count)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, table, types.int64), codegen


@intrinsic
def look_up_four(typingctx: Any, to: Any, source: Any, entries: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        to, source, entries = args
        loaded = builder.load(v.pointer(builder, source, ir.VectorType(v.I8, 4 * BLOCK)))
        loaded.align = 1
        v.store(builder, _looked_up(builder, loaded, entries), to, align=1)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, table), codegen


def _looked_up(builder: Any, numbers: Any, entries: Any) -> Any:
    """The entries of a vector of 16 or 64 bytes."""
    match _in_registers():
        case "tbl":
            return _by_tbl(builder, numbers, entries)
        case "vpermi2b":
            return _by_vpermi2b(builder, numbers, entries)
    # A chain of 16 vpshufb takes as long on AVX2 as single loads, of which two start per cycle.
    result = ir.Constant(numbers.type, ir.Undefined)
    for lane in range(numbers.type.count):
        number = builder.zext(builder.extract_element(numbers, v.I32(lane)), v.I64)
        entry = builder.load(v.pointer(builder, builder.add(entries, number), v.I8))
        result = builder.insert_element(result, entry, v.I32(lane))
    return result


def _by_vpermi2b(builder: Any, numbers: Any, entries: Any) -> Any:
    """Two tables of 128 entries each, of which the highest bit chooses."""
    many, wide = numbers.type.count, ir.VectorType(v.I8, 64)
    quarters = [v.pick(builder, entries, entries, range(first, first + 64)) for first in range(0, 256, 64)]
    index = v.pick(builder, numbers, numbers, [lane % many for lane in range(64)])
    name = "llvm.x86.avx512.vpermi2var.qi.512"
    permute = builder.module.declare_intrinsic(name, fnty=ir.FunctionType(wide, [wide] * 3))
    low, high = (builder.call(permute, [quarters[at], index, quarters[at + 1]]) for at in (0, 2))
    whole = builder.select(builder.icmp_signed("<", index, ir.Constant(wide, [0] * 64)), high, low)
    return v.pick(builder, whole, whole, range(many))


def _by_tbl(builder: Any, numbers: Any, entries: Any) -> Any:
    """Four tables of 64 entries: an index beyond one leaves what the others found (tbx), or 0 (tbl)."""
    many, sixteen = numbers.type.count, ir.VectorType(v.I8, BLOCK)
    parts = [v.pick(builder, entries, entries, range(first, first + BLOCK)) for first in range(0, 256, BLOCK)]
    plain = ir.FunctionType(sixteen, [sixteen] * 5)
    tbl = builder.module.declare_intrinsic("llvm.aarch64.neon.tbl4.v16i8", fnty=plain)
    more = ir.FunctionType(sixteen, [sixteen] * 6)
    tbx = builder.module.declare_intrinsic("llvm.aarch64.neon.tbx4.v16i8", fnty=more)
    found = []
    for first in range(0, many, BLOCK):
        index = v.pick(builder, numbers, numbers, range(first, first + BLOCK))
        value = builder.call(tbl, [*parts[:4], index])
        for quarter in range(1, 4):
            beyond = builder.sub(index, ir.Constant(sixteen, [64 * quarter] * BLOCK))
            value = builder.call(tbx, [value, *parts[4 * quarter : 4 * quarter + 4], beyond])
        found.append(value)
    while len(found) > 1:
        half = found[0].type.count
        found = [v.pick(builder, found[at], found[at + 1], range(2 * half)) for at in range(0, len(found), 2)]
    return found[0]


def _store(builder: Any, address: Any, value: Any, count: Any) -> None:
    """The first ``count`` lanes; nothing is read where it is all of them."""
    many = value.type.count
    whole = builder.icmp_signed(">=", count, v.I64(many))
    with builder.if_else(whole) as (then, otherwise):
        with then:
            v.store(builder, value, address, align=1)
        with otherwise:
            old = builder.load(v.pointer(builder, address, value.type))
            old.align = 1
            counts = _splat(builder, builder.trunc(count, v.I32), many)
            inside = builder.icmp_signed("<", ir.Constant(counts.type, list(range(many))), counts)
            v.store(builder, builder.select(inside, value, old), address, align=1)


def _splat(builder: Any, scalar: Any, many: int = BLOCK) -> Any:
    kind = ir.VectorType(v.I32, many)
    undefined = ir.Constant(kind, ir.Undefined)
    one = builder.insert_element(undefined, scalar, v.I32(0))
    return builder.shuffle_vector(one, undefined, ir.Constant(kind, [0] * many))
