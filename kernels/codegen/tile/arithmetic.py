"""The arithmetic of a tile, and that of floats."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from fogconv.ir.precision.elements import ELEMENT_BYTES, Element
from fogconv.kernels.codegen import emit as v
from fogconv.kernels.codegen.emit import Builder, Value
from fogconv.kernels.codegen.tile.results import emit_finish
from fogconv.kernels.codegen.tile.tile import Tile


class Arithmetic(Protocol):
    """What a tile does with 32 bits of input, of weights and of sums: `Floats`, or four bytes at once
    (`fogconv.kernels.quantized.arithmetic`). A frozen dataclass, so that the code of two can be distinguished by it."""

    def start(self, builder: Builder, bias: Value, vl: int, offset: int) -> Value:
        """A vector of sums before the first product."""
        ...

    def held(self, builder: Builder, value: Value) -> Value:
        """A vector of inputs, made ready for `product`."""
        ...

    def product(self, builder: Builder, value: Value, weight: Value, total: Value) -> Value:
        """total + value · weight, lane by lane."""
        ...

    def finish(
        self, builder: Builder, tile: Tile, fields: Value, bias: Value, sums: list[Value], out: Value, residual: Value
    ) -> None:
        """Store the sums [pixel][vector] as what the layer gives."""
        ...

    @property
    def out_bytes(self) -> int:
        """Bytes of one output."""
        ...


@dataclass(frozen=True, slots=True)
class Floats:
    """Sums in fp32: residual and clamp are applied before the store. ``element``: of the result, and of the residual."""

    fused: bool
    element: Element = "fp32"

    @property
    def out_bytes(self) -> int:
        return ELEMENT_BYTES[self.element]

    def start(self, builder: Builder, bias: Value, vl: int, offset: int) -> Value:
        return v.load(builder, bias, vl, offset, align=4 * vl)

    def held(self, builder: Builder, value: Value) -> Value:
        return value

    def product(self, builder: Builder, value: Value, weight: Value, total: Value) -> Value:
        return v.fma(builder, value, weight, total, self.fused)

    def finish(
        self, builder: Builder, tile: Tile, fields: Value, bias: Value, sums: list[Value], out: Value, residual: Value
    ) -> None:
        emit_finish(builder, tile, fields, sums, out, residual, self.element)
