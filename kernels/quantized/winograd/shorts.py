"""The arithmetic of a tile on pairs of 16-bit integers, whose sums wrap around."""

from __future__ import annotations

from dataclasses import dataclass

from llvmlite import ir

from fogconv.kernels.codegen import emit as v
from fogconv.kernels.codegen.emit import I16, I32, Builder, Value
from fogconv.kernels.codegen.tile.results import places
from fogconv.kernels.codegen.tile.tile import Tile


@dataclass(frozen=True, slots=True)
class Shorts:
    """Words of two input channels: both products with their weights are added to a sum of int32. ``dots``: by one
    instruction of AVX512-VNNI or AVX-VNNI, vpdpwssd, instead of vpmaddwd and an addition."""

    dots: bool

    @property
    def out_bytes(self) -> int:
        return 4

    def start(self, builder: Builder, bias: Value, vl: int, offset: int) -> Value:
        return ir.Constant(ir.VectorType(I32, vl), [0] * vl)

    def held(self, builder: Builder, value: Value) -> Value:
        return value

    def product(self, builder: Builder, value: Value, weight: Value, total: Value) -> Value:
        vl, kind = total.type.count, total.type
        if self.dots:
            name, own, arguments = f"llvm.x86.avx512.vpdpwssd.{32 * vl}", kind, [total]
        else:
            name = {4: "llvm.x86.sse2.pmadd.wd", 8: "llvm.x86.avx2.pmadd.wd", 16: "llvm.x86.avx512.pmaddw.d.512"}[vl]
            own, arguments = ir.VectorType(I16, 2 * vl), []
        module, signature = builder.module, ir.FunctionType(kind, [*(each.type for each in arguments), own, own])
        function = module.globals.get(name) or ir.Function(module, signature, name)
        found = builder.call(function, [*arguments, builder.bitcast(value, own), builder.bitcast(weight, own)])
        return found if self.dots else builder.add(total, found)

    def finish(
        self, builder: Builder, tile: Tile, fields: Value, bias: Value, sums: list[Value], out: Value, residual: Value
    ) -> None:
        for value, (base, offset) in zip(sums, places(builder, tile, fields, out, self.out_bytes), strict=True):
            v.store(builder, value, base, offset)
