"""Winograd's transforms of tiles as LLVM IR: Bᵀ d B of the inputs, Aᵀ M A of the products (see `winograd_matrices`).

Every operation is on vl channels at once, in fp32: maps of 16 bits are widened as they are loaded, and rounded as they are
stored. A tile's values are in registers between its columns and its rows, and LLVM spills some; a tile that is much too
large for that is transformed by `winograd_passes`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from numba import types
from numba.extending import intrinsic

from fogconv.ir.geometry import BLOCK
from fogconv.ir.precision.elements import ELEMENT_BYTES, Element
from fogconv.kernels.codegen import emit as v
from fogconv.kernels.codegen.emit import I64, Builder, Value
from fogconv.kernels.codegen.isa import Isa
from fogconv.kernels.conv import winograd_passes
from fogconv.kernels.conv.winograd_matrices import Form, filter_1d, input_1d, output_1d
from fogconv.kernels.conv.winograd_passes import Ending


def _subvectors(builder: Builder, isa: Isa, places: Sequence[tuple[Value, Element]], body: Any) -> None:
    """``body(addresses)`` for each part of a block of 16 channels. ``places``: the first addresses, and what is there."""
    addresses, elements = zip(*places, strict=True)

    def part(now: Sequence[Value]) -> list[Value]:
        body(now)
        return [
            v.shifted(builder, address, ELEMENT_BYTES[element] * isa.vector_length)
            for address, element in zip(now, elements, strict=True)
        ]

    v.loop(builder, I64(BLOCK // isa.vector_length), addresses, part, at_least_once=True)


@cache
def input_intrinsic(form: Form, isa: Isa, element: Element = "fp32") -> Any:
    """transform_input(x, row stride, rows, columns, to, element stride): one tile of one block of channels, of which each is
    an ``element``.

    Only the first ``rows`` × ``columns`` inputs of the tile are read; the others are zeros. Element (i, j) goes to
    ``to + (i·(m_w+r_w−1) + j)·element stride``, in fp32.
    """
    return _tile_intrinsic(form, isa, form.inputs, input_1d, element)


@cache
def filter_intrinsic(form: Form, isa: Isa) -> Any:
    """transform_filter, as ``input_intrinsic``, of the r_h × r_w values of a filter that are stored like an image's: the
    output's gradient, by which the input is filtered for the gradient of the weight."""
    return _tile_intrinsic(form, isa, form.kernel, filter_1d)


def _tile_intrinsic(form: Form, isa: Isa, size: tuple[int, int], transform: Any, element: Element = "fp32") -> Any:
    @intrinsic
    def transform_tile(typing: Any, x: Any, row_stride: Any, rows: Any, columns: Any, to: Any, stride: Any) -> Any:
        def code(context: Any, builder: Builder, signature: Any, args: Sequence[Value]) -> Value:
            _tile_of(form, isa)(builder, form, isa, size, transform, args, element)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 6), code

    return transform_tile


def emit_input(builder: Builder, *args: Value, form: Form, isa: Isa, element: Element = "fp32") -> None:
    """Emit `input_intrinsic`'s function of ``args``."""
    _tile_of(form, isa)(builder, form, isa, form.inputs, input_1d, args, element)


def _tile_of(form: Form, isa: Isa) -> Any:
    return winograd_passes.emit_tile if winograd_passes.pays(form, isa) else _emit_tile


def _emit_tile(
    builder: Builder,
    form: Form,
    isa: Isa,
    size: tuple[int, int],
    transform: Any,
    args: Sequence[Value],
    element: Element = "fp32",
) -> None:
    (mh, mw), (rh, rw), (high, wide) = form.outputs, form.kernel, size
    x, row_stride, rows, columns, to, stride = args
    zero, pixel = v.constant(isa.vector_length, 0.0), BLOCK * ELEMENT_BYTES[element]

    def emit(whole: bool) -> None:
        def one(now: Sequence[Value]) -> None:
            x, to = now
            lines = [x]
            for _ in range(1, high):
                lines.append(v.shifted(builder, lines[-1], row_stride))

            def read(i: int, j: int) -> Value:
                def load(_: Sequence[Value]) -> list[Value]:
                    return [v.load_as(builder, lines[i], isa.vector_length, pixel * j, element)]

                if whole:
                    return load([])[0]
                inside = builder.and_(builder.icmp_signed("<", I64(i), rows), builder.icmp_signed("<", I64(j), columns))
                return v.when(builder, inside, [zero], load)[0]

            done = [transform(builder, mh, rh, [read(i, j) for i in range(high)], isa.fused) for j in range(wide)]
            at = to
            for i in range(form.inputs[0]):
                for value in transform(builder, mw, rw, [done[j][i] for j in range(wide)], isa.fused):
                    v.store(builder, value, at)
                    at = v.shifted(builder, at, stride)

        _subvectors(builder, isa, [(x, element), (to, "fp32")], one)

    all_there = builder.and_(builder.icmp_signed(">=", rows, I64(high)), builder.icmp_signed(">=", columns, I64(wide)))
    with builder.if_else(all_there) as (then, otherwise):
        with then:
            emit(True)
        with otherwise:
            emit(False)


@cache
def output_intrinsic(form: Form, isa: Isa, element: Element = "fp32") -> Any:
    """transform_output(products, element stride, bias, to, row stride, residual, its stride, rows, columns, flags, clamp)

    One tile of one block of channels: Aᵀ M A + bias (+ residual where flags has 1), clamped between the two floats at
    ``clamp`` where flags has 2 or 4. Only the first ``rows`` × ``columns`` of the tile's outputs are written. ``element``:
    of outputs and residual, which are computed in fp32 all the same.
    """

    @intrinsic
    def transform_output(
        typing: Any,
        products: Any,
        stride: Any,
        bias: Any,
        to: Any,
        row_stride: Any,
        residual: Any,
        residual_stride: Any,
        rows: Any,
        columns: Any,
        flags: Any,
        clamp: Any,
    ) -> Any:
        def code(context: Any, builder: Builder, signature: Any, args: Sequence[Value]) -> Value:
            emit_output(builder, *args, form=form, isa=isa, element=element)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 11), code

    return transform_output


def emit_output(builder: Builder, *args: Value, form: Form, isa: Isa, element: Element = "fp32") -> None:
    """Emit `output_intrinsic`'s function of ``args``."""
    if winograd_passes.pays(form, isa):
        winograd_passes.emit_output(builder, *args, form=form, isa=isa, element=element)
        return
    (mh, mw), (rh, rw), (tall, wide) = form.outputs, form.kernel, form.inputs
    vl = isa.vector_length

    def emit(whole: bool) -> None:
        products, stride, bias, to, row_stride, residual, residual_stride, rows, columns, flags, clamp = args
        ending = Ending.of(builder, flags, clamp, isa, element)

        def there(i: int, j: int) -> Value:
            return builder.and_(builder.icmp_signed("<", I64(i), rows), builder.icmp_signed("<", I64(j), columns))

        def one(now: Sequence[Value]) -> None:
            products, bias, to, residual = now
            at = products
            elements = []
            for _ in range(tall * wide):
                elements.append(v.load(builder, at, vl))
                at = v.shifted(builder, at, stride)
            done = [
                output_1d(builder, mh, rh, [elements[i * wide + j] for i in range(tall)], isa.fused) for j in range(wide)
            ]
            start = v.load(builder, bias, vl)
            results = []
            for i in range(mh):
                line = output_1d(builder, mw, rw, [done[j][i] for j in range(wide)], isa.fused)
                results.append([builder.fadd(value, start) for value in line])
            ending.write(builder, results, (to, row_stride), (residual, residual_stride), None if whole else there)

        _subvectors(builder, isa, [(products, "fp32"), (bias, "fp32"), (to, element), (residual, element)], one)

    whole = builder.and_(builder.icmp_signed(">=", args[7], I64(mh)), builder.icmp_signed(">=", args[8], I64(mw)))
    with builder.if_else(whole) as (then, otherwise):
        with then:
            emit(True)
        with otherwise:
            emit(False)
