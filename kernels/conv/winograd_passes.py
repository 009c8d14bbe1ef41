"""Winograd's transforms in two passes, for tiles that are much too large for the registers: columns, then rows.

Between the passes a tile lies on the stack, 4 KB for F(6×6, 3×3), which stays in the first-level cache. Given such a tile as
one sequence of instructions, LLVM moved more to the stack and back: F(6×6, 3×3)'s outputs took 1.6 to 1.9 times as long on
AVX-512 and 1.5 times on AVX2, its inputs 1.1 times. F(4×4, 3×3)'s 36 values are better left to it with 32 registers, and not
with 16. Numbers are summed in the same order both ways: results are equal to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from llvmlite import ir

from fogconv.ir.geometry import BLOCK, BYTES_PER_ELEMENT
from fogconv.ir.precision.elements import ELEMENT_BYTES, Element
from fogconv.kernels.codegen import emit as v
from fogconv.kernels.codegen.emit import F32, I64, Builder, Value
from fogconv.kernels.codegen.isa import Isa
from fogconv.kernels.conv.winograd_matrices import Form, output_1d

PIXEL = BLOCK * BYTES_PER_ELEMENT

Transform = Callable[[Builder, int, int, Sequence[Value], bool], list[Value]]
"""`input_1d` and its like."""


def pays(form: Form, isa: Isa) -> bool:
    """Whether a tile is so much larger than the registers that two passes are faster."""
    return 2 * form.elements > 3 * isa.registers


@dataclass(frozen=True, slots=True)
class Ending:
    """What becomes of a tile's outputs: a residual may be added, and they may be clamped, before they are stored.

    ``flags``: 1 with a residual, 2 or 4 clamped between the two floats at ``clamp``. ``element``: of outputs and residual.
    """

    low: Value
    high: Value
    with_residual: Value
    with_clamp: Value
    element: Element

    @staticmethod
    def of(builder: Builder, flags: Value, clamp: Value, isa: Isa, element: Element) -> Ending:
        low, high = (v.splat(builder, v.load_f32(builder, clamp, offset), isa.vector_length) for offset in (0, 4))
        residual, clamped = (builder.icmp_unsigned("!=", builder.and_(flags, I64(flag)), I64(0)) for flag in (1, 6))
        return Ending(low, high, residual, clamped, element)

    def write(
        self,
        builder: Builder,
        rows: Sequence[Sequence[Value]],
        to: tuple[Value, Value],
        residual: tuple[Value, Value],
        there: Callable[[int, int], Value] | None,
    ) -> None:
        """Store rows of a tile, of which only what is ``there`` is touched; None: all. ``to``, ``residual``: the address of
        the first row, and the bytes from one to the next."""
        pixel = BLOCK * ELEMENT_BYTES[self.element]

        def lines(first: Value, stride: Value) -> Iterator[tuple[int, int, Value]]:
            for i, row in enumerate(rows):
                first = v.shifted(builder, first, stride) if i else first
                yield from ((i, j, first) for j in range(len(row)))

        def add(now: Sequence[Value]) -> list[Value]:
            summed = []
            for (i, j, line), value in zip(lines(*residual), now, strict=True):

                def plus(now: Sequence[Value], j: int = j, line: Value = line) -> list[Value]:
                    return [builder.fadd(now[0], v.load_as(builder, line, now[0].type.count, pixel * j, self.element))]

                summed += plus([value]) if there is None else v.when(builder, there(i, j), [value], plus)
            return summed

        def limit(now: Sequence[Value]) -> list[Value]:
            return [v.minimum(builder, self.high, v.maximum(builder, self.low, value)) for value in now]

        values = v.when(builder, self.with_residual, [value for row in rows for value in row], add)
        values = v.when(builder, self.with_clamp, values, limit)
        for (i, j, line), value in zip(lines(*to), values, strict=True):
            if there is None:
                v.store_as(builder, value, line, pixel * j, self.element)
                continue
            with builder.if_then(there(i, j)):
                v.store_as(builder, value, line, pixel * j, self.element)


def emit_tile(
    builder: Builder,
    form: Form,
    isa: Isa,
    size: tuple[int, int],
    transform: Transform,
    args: Sequence[Value],
    element: Element,
) -> None:
    """Emit `winograd_transforms.input_intrinsic`'s function of ``args``, or with another ``transform`` that of a filter of
    ``size``."""
    (mh, mw), (rh, rw), (high, wide) = form.outputs, form.kernel, size
    x, row_stride, rows, columns, to, stride = args
    tall, line = form.inputs[0], PIXEL * wide
    zero, pixel = v.constant(isa.vector_length, 0.0), BLOCK * ELEMENT_BYTES[element]
    between = _on_stack(builder, tall * wide)

    def column(whole: bool) -> Callable[[Sequence[Value]], list[Value]]:
        def one(now: Sequence[Value]) -> list[Value]:
            x, at = now
            lines = [x]
            for _ in range(1, high):
                lines.append(v.shifted(builder, lines[-1], row_stride))
            for part in range(BLOCK // isa.vector_length):

                def read(i: int, lanes: int = part * isa.vector_length) -> Value:
                    def load(_: Sequence[Value]) -> list[Value]:
                        return [v.load_as(builder, lines[i], isa.vector_length, ELEMENT_BYTES[element] * lanes, element)]

                    if whole:
                        return load([])[0]
                    return v.when(builder, builder.icmp_signed("<", I64(i), rows), [zero], load)[0]

                for i, value in enumerate(transform(builder, mh, rh, [read(i) for i in range(high)], isa.fused)):
                    v.store(builder, value, at, line * i + BYTES_PER_ELEMENT * part * isa.vector_length)
            return [v.shifted(builder, x, pixel), v.shifted(builder, at, PIXEL)]

        return one

    def clear(now: Sequence[Value]) -> list[Value]:
        for i in range(tall):
            for lane in range(0, BLOCK, isa.vector_length):
                v.store(builder, zero, now[0], line * i + BYTES_PER_ELEMENT * lane)
        return [v.shifted(builder, now[0], PIXEL)]

    all_there = builder.and_(builder.icmp_signed(">=", rows, I64(high)), builder.icmp_signed(">=", columns, I64(wide)))
    with builder.if_else(all_there) as (then, otherwise):
        with then:
            v.loop(builder, I64(wide), [x, between], column(True), at_least_once=True)
        with otherwise:
            there = _at_most(builder, columns, wide)
            _, rest = v.loop(builder, there, [x, between], column(False))
            v.loop(builder, builder.sub(I64(wide), there), [rest], clear)

    def row(now: Sequence[Value]) -> list[Value]:
        at, to = now
        for lane in range(0, BLOCK, isa.vector_length):
            offset, place = BYTES_PER_ELEMENT * lane, to
            values = [v.load(builder, at, isa.vector_length, PIXEL * j + offset) for j in range(wide)]
            for value in transform(builder, mw, rw, values, isa.fused):
                v.store(builder, value, place, offset)
                place = v.shifted(builder, place, stride)
        return [v.shifted(builder, at, line), place]

    v.loop(builder, I64(tall), [between, to], row, at_least_once=True)


def emit_output(builder: Builder, *args: Value, form: Form, isa: Isa, element: Element) -> None:
    """Emit `winograd_transforms.output_intrinsic`'s function of ``args``."""
    (mh, mw), (rh, rw), (tall, wide) = form.outputs, form.kernel, form.inputs
    products, stride, bias, to, row_stride, residual, residual_stride, rows, columns, flags, clamp = args
    vl, line = isa.vector_length, PIXEL * wide
    ending = Ending.of(builder, flags, clamp, isa, element)
    between = _on_stack(builder, mh * wide)
    element_row = builder.mul(stride, I64(wide))

    def column(now: Sequence[Value]) -> list[Value]:
        products, at = now
        places = [products]
        for _ in range(1, tall):
            places.append(v.shifted(builder, places[-1], element_row))
        for lane in range(0, BLOCK, vl):
            values = [v.load(builder, place, vl, BYTES_PER_ELEMENT * lane) for place in places]
            for i, value in enumerate(output_1d(builder, mh, rh, values, isa.fused)):
                v.store(builder, value, at, line * i + BYTES_PER_ELEMENT * lane)
        return [v.shifted(builder, products, stride), v.shifted(builder, at, PIXEL)]

    v.loop(builder, I64(wide), [products, between], column, at_least_once=True)

    def row(whole: bool) -> Callable[[Sequence[Value]], list[Value]]:
        def there(_: int, j: int) -> Value:
            return builder.icmp_signed("<", I64(j), columns)

        def one(now: Sequence[Value]) -> list[Value]:
            at, to, residual = now
            for lane in range(0, BLOCK, vl):
                offset = BYTES_PER_ELEMENT * lane
                start = v.load(builder, bias, vl, offset)
                values = [v.load(builder, at, vl, PIXEL * j + offset) for j in range(wide)]
                values = [builder.fadd(value, start) for value in output_1d(builder, mw, rw, values, isa.fused)]
                place, more = (v.shifted(builder, each, ELEMENT_BYTES[element] * lane) for each in (to, residual))
                ending.write(builder, [values], (place, row_stride), (more, residual_stride), None if whole else there)
            to, residual = v.shifted(builder, to, row_stride), v.shifted(builder, residual, residual_stride)
            return [v.shifted(builder, at, line), to, residual]

        return one

    all_there = builder.and_(builder.icmp_signed(">=", rows, I64(mh)), builder.icmp_signed(">=", columns, I64(mw)))
    with builder.if_else(all_there) as (then, otherwise):
        with then:
            v.loop(builder, I64(mh), [between, to, residual], row(True), at_least_once=True)
        with otherwise:
            v.loop(builder, _at_most(builder, rows, mh), [between, to, residual], row(False))


def _at_most(builder: Builder, number: Value, most: int) -> Value:
    return builder.select(builder.icmp_signed("<", number, I64(most)), number, I64(most))


def _on_stack(builder: Builder, pixels: int) -> Value:
    """The address of so many pixels on the stack. LLVM must not know what it is: it would put them into registers, which
    are too few."""
    with builder.goto_entry_block():
        place = builder.alloca(ir.ArrayType(F32, BLOCK * pixels))
        place.align = PIXEL
        address = builder.ptrtoint(place, I64)
    return builder.asm(ir.FunctionType(I64, [I64]), "", "=r,0,~{memory}", [address], side_effect=True)
