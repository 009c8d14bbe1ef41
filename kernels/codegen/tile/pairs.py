"""The arithmetic of pairs of bf16: two products per instruction."""

from __future__ import annotations

from dataclasses import dataclass

from llvmlite import ir

from fogconv.kernels.codegen import emit as v
from fogconv.kernels.codegen.emit import Builder, Value
from fogconv.kernels.codegen.tile.arithmetic import Floats


@dataclass(frozen=True, slots=True)
class Pairs(Floats):
    """The same of words of two numbers of bf16: AVX512-BF16's vdpbf16ps adds both products to a sum of fp32.

    Products of bf16 are exact in fp32; each addition rounds once, to the nearest. Denormals count as 0.
    """

    def product(self, builder: Builder, value: Value, weight: Value, total: Value) -> Value:
        words = ir.VectorType(v.I32, total.type.count)
        name = f"llvm.x86.avx512bf16.dpbf16ps.{32 * total.type.count}"
        module = builder.module
        signature = ir.FunctionType(total.type, [total.type, words, words])
        function = module.globals.get(name) or ir.Function(module, signature, name)
        return builder.call(function, [total, builder.bitcast(value, words), builder.bitcast(weight, words)])
