"""The end of a tile: residual, clamp, and the only store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fogconv.ir.precision.elements import ELEMENT_BYTES, Element
from fogconv.kernels.codegen import emit as v
from fogconv.kernels.codegen.emit import I64, Builder, Value
from fogconv.kernels.codegen.tile.fields import Field, Flag
from fogconv.kernels.codegen.tile.tile import Tile


def emit_finish(
    builder: Builder,
    tile: Tile,
    fields: Value,
    sums: list[Value],
    out: Value,
    residual: Value,
    element: Element = "fp32",
) -> None:
    """Residual, clamp, store. ``element``: of the residual and of what is stored."""
    size = ELEMENT_BYTES[element]
    flags = v.load_i64(builder, fields, Field.FLAGS)

    def add(now: Sequence[Value]) -> list[Value]:
        strides = Field.RESIDUAL_BLOCK_STRIDE, Field.RESIDUAL_ROW_STRIDE
        return [
            builder.fadd(value, v.load_as(builder, base, tile.vl, offset, element))
            for value, (base, offset) in zip(now, places(builder, tile, fields, residual, size, strides), strict=True)
        ]

    def bound(number: int, clamp: Any) -> Any:
        def body(now: Sequence[Value]) -> list[Value]:
            limit = v.splat(builder, v.load_f32(builder, fields, 8 * Field.CLAMP + 4 * number), tile.vl)
            return [clamp(builder, limit, value) for value in now]

        return body

    def wanted(flag: Flag) -> Value:
        return builder.icmp_unsigned("!=", builder.and_(flags, I64(int(flag))), I64(0))

    sums = v.when(builder, wanted(Flag.RESIDUAL), sums, add)
    sums = v.when(builder, wanted(Flag.FLOOR), sums, bound(0, v.maximum))
    sums = v.when(builder, wanted(Flag.CEILING), sums, bound(1, v.minimum))
    for value, (base, offset) in zip(sums, places(builder, tile, fields, out, size), strict=True):
        v.store_as(builder, value, base, offset, element)


def places(
    builder: Builder,
    tile: Tile,
    fields: Value,
    base: Value,
    size: int = 4,
    strides: tuple[Field, Field] = (Field.OUT_BLOCK_STRIDE, Field.OUT_ROW_STRIDE),
) -> list[tuple[Value, int]]:
    """For each (pixel, vector) of a tile: an address and a constant offset. ``size``: bytes per element; ``strides``: the
    fields that hold the bytes from block to block and from row to row."""
    per_block = 16 // tile.vl
    over, down = (v.load_i64(builder, fields, which) for which in strides)
    found: list[tuple[Value, int]] = []
    row = base
    for r in range(tile.rows):
        row = v.shifted(builder, row, down) if r else row
        blocks = [row]
        for _ in range(1, -(-tile.vectors // per_block)):
            blocks.append(v.shifted(builder, blocks[-1], over))
        for column in range(tile.columns):
            found += [
                (blocks[n // per_block], size * (16 * column + tile.vl * (n % per_block))) for n in range(tile.vectors)
            ]
    return found
