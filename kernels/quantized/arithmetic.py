"""Products of bytes, four at once, and what becomes of their sums: the arithmetic of `fogconv.kernels.codegen.microkernel`.

A word is four input channels of a pixel, uint8; a vector of weights is the int8 weights of these four for vl output
channels. All products and sums are exact, so each of these gives the same int32:

    vnni      vpdpbusd: x86 with AVX512-VNNI or AVX-VNNI
    pairs     vpmaddwd on bytes widened to 16 bits, two for even and odd channels; never the saturating vpmaddubsw
    sdot      aarch64's dot product by one word. It takes signed bytes, so the input's highest bit is flipped
              (q xor 128 = q − 128) and the bias holds 128·Σ w more (see `bias_of`)
    smull     aarch64 without it: products of 16 bits, of which any two still fit, then their pairs added in 32
    plain     anything else
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import numpy as np
from llvmlite import ir

from fogconv.ir.geometry import BLOCK
from fogconv.kernels.codegen import emit as v
from fogconv.kernels.codegen.emit import F32, I8, I32, Builder, Value
from fogconv.kernels.codegen.isa import Isa, cpu_features, host_dots, host_family
from fogconv.kernels.codegen.tile.fields import Field
from fogconv.kernels.codegen.tile.results import places
from fogconv.kernels.codegen.tile.tile import Tile
from fogconv.kernels.quantized.numbers import Sums

I16 = ir.IntType(16)
WORD = 4
"""Input channels of a word."""

FLIP = 128
"""What the signed instructions take off each input."""

ROUND = 1.5 * 2.0**23
"""A float plus this holds its nearest integer, halves to even, in its lowest bits."""


class Product(StrEnum):
    VNNI = "vnni"
    PAIRS = "pairs"
    SDOT = "sdot"
    SMULL = "smull"
    PLAIN = "plain"

    @property
    def flipped(self) -> bool:
        """Whether it takes signed inputs, and so sums of inputs that are 128 too small."""
        return self in (Product.SDOT, Product.SMULL)


class Result(StrEnum):
    """What is stored of a sum."""

    BYTES = "bytes"
    SUMS = "sums"
    FLOATS = "floats"

    @property
    def kind(self) -> type[Any]:
        return {Result.BYTES: np.uint8, Result.SUMS: np.int32, Result.FLOATS: np.float32}[self]


def host_product(isa: Isa) -> Product:
    """The fastest one that this CPU has, or that $FOGCONV_ISA asks for."""
    features = cpu_features()
    if host_family() == "aarch64":
        return Product.SDOT if host_dots() and "dotprod" in features else Product.SMULL
    if host_family() != "x86":
        return Product.PLAIN
    vnni = {"avx512vnni", "avx512vl"} <= features or ("avxvnni" in features and isa.vector_length < 16)
    if host_dots() and vnni:
        return Product.VNNI
    wanted = {4: "sse2", 8: "avx2", 16: "avx512bw"}[isa.vector_length]
    return Product.PAIRS if wanted in features else Product.PLAIN


def tile_isa(isa: Isa, product: Product) -> Isa:
    """The instruction set as the tiling must see it: the widened inputs, weights and products need registers, too."""
    wide = isa.registers > 16
    match product:
        case Product.VNNI if wide:
            return replace(isa, pixels=(26, 14, 8, 6))
        case Product.PAIRS if isa.vector_length == BLOCK:
            return replace(isa, pixels=(20, 10, 6, 5))
        case Product.PAIRS if wide:
            return replace(isa, pixels=(16, 8, 5, 4))
        case Product.SMULL:
            return replace(isa, pixels=(8, 5, 3, 2))
        case Product.VNNI | Product.SDOT:
            return isa
    return replace(isa, pixels=(6, 4, 2, 1))


def unrolled(isa: Isa, product: Product) -> int:
    """Words per round of the hot loop. LLVM widens a round's weights at once, for which registers lack."""
    return 1 if product is Product.PAIRS and isa.name != "neon" else WORD


@dataclass(frozen=True, slots=True)
class Dots:
    """Sums of products of bytes, stored as ``result``. Behind a group's biases lie its multipliers."""

    product_by: Product
    result: Result

    @property
    def out_bytes(self) -> int:
        return int(np.dtype(self.result.kind).itemsize)

    def start(self, builder: Builder, bias: Value, vl: int, offset: int) -> Value:
        return _words(builder, v.load(builder, bias, vl, offset, align=4))

    def held(self, builder: Builder, value: Value) -> Value:
        if not self.product_by.flipped:
            return value
        words = _words(builder, value)
        return builder.xor(words, _all(words.type, FLIP * 0x01010101 - (1 << 32)))

    def product(self, builder: Builder, value: Value, weight: Value, total: Value) -> Value:
        x, w = _words(builder, value), _words(builder, weight)
        return {
            Product.VNNI: _vnni,
            Product.PAIRS: _pairs,
            Product.SDOT: _sdot,
            Product.SMULL: _smull,
            Product.PLAIN: _plain,
        }[self.product_by](builder, total, x, w)

    def finish(
        self, builder: Builder, tile: Tile, fields: Value, bias: Value, sums: list[Value], out: Value, residual: Value
    ) -> None:
        vl, nv = tile.vl, tile.vectors
        to = places(builder, tile, fields, out, self.out_bytes)
        if self.result is Result.SUMS:
            for value, (base, offset) in zip(sums, to, strict=True):
                v.store(builder, value, base, offset, align=4)
            return
        factors = [v.load(builder, bias, vl, 4 * vl * (nv + n), align=4) for n in range(nv)]
        scaled = [
            builder.fmul(builder.sitofp(value, v.vector(vl)), factors[number % nv]) for number, value in enumerate(sums)
        ]
        if self.result is Result.FLOATS:
            for value, (base, offset) in zip(scaled, to, strict=True):
                v.store(builder, value, base, offset, align=4)
            return
        target = load_target(builder, fields, vl)
        if v.cpu_family(builder) not in ("x86", "aarch64"):
            for value, (base, offset) in zip(scaled, to, strict=True):
                v.store(builder, target.bytes_of(builder, value), base, offset, align=1)
            return
        per_block = BLOCK // vl
        for first in range(0, nv, per_block):  # one block of output channels; its pixels in a row are adjacent
            for row in range(tile.rows):
                pixels = range(row * tile.columns, (row + 1) * tile.columns)
                order = [p * nv + n for p in pixels for n in range(first, first + per_block)]
                for at in range(0, len(order), 4):
                    four = order[at : at + 4]
                    packed = target.packed(builder, [scaled[number] for number in four])
                    _store_first(builder, packed, len(four) * vl, *to[four[0]])


@dataclass(frozen=True, slots=True)
class EmittedTarget:
    """A `Target`'s numbers in registers: the bounds less the zero, and the zero."""

    low: Value
    high: Value
    zero: Value

    def bytes_of(self, builder: Builder, value: Value) -> Value:
        """clamp(rne(value) + zero, low, high) as bytes. Clamping first gives the same, and keeps the sum with `ROUND`
        exact; the first bound takes the place of NaN."""
        vl = value.type.count
        above = builder.select(builder.fcmp_ordered(">", value, self.low), value, self.low)
        within = builder.select(builder.fcmp_ordered("<", above, self.high), above, self.high)
        rounded = _words(builder, builder.fadd(within, v.constant(vl, ROUND)))
        return builder.trunc(builder.add(rounded, self.zero), ir.VectorType(I8, vl))

    def packed(self, builder: Builder, values: list[Value]) -> Value:
        """Up to four vectors as the bytes of `bytes_of`, in order; what follows them is anything."""
        vl = values[0].type.count
        four = [_nearest(builder, value) for value in values]
        four += [four[-1]] * (4 - len(four))
        if v.cpu_family(builder) == "aarch64":
            return self._within(builder, self._narrowed(builder, four))
        shorts, many = ir.VectorType(I16, 2 * vl), ir.VectorType(I8, 4 * vl)
        to_shorts = {4: "sse2.packssdw.128", 8: "avx2.packssdw", 16: "avx512.packssdw.512"}[vl]
        to_bytes = {4: "sse2.packuswb.128", 8: "avx2.packuswb", 16: "avx512.packuswb.512"}[vl]
        halves = []
        for pair in (four[:2], four[2:]):
            half = _call(builder, f"llvm.x86.{to_shorts}", shorts, *pair)
            halves.append(_call(builder, f"llvm.sadd.sat.v{2 * vl}i16", shorts, half, self._short_zero(builder, 2 * vl)))
        together = self._within(builder, _call(builder, f"llvm.x86.{to_bytes}", many, *halves))
        if vl == 4:
            return together
        # Both instructions work within 128 bits: word 4·i + k is the i-th of vector k.
        words = builder.bitcast(together, ir.VectorType(I32, vl))
        return builder.bitcast(v.pick(builder, words, words, [4 * i + k for k in range(4) for i in range(vl // 4)]), many)

    def _narrowed(self, builder: Builder, four: list[Value]) -> Value:
        four_shorts, shorts, half = ir.VectorType(I16, 4), ir.VectorType(I16, 8), ir.VectorType(I8, 8)
        bytes_ = []
        for pair in (four[:2], four[2:]):
            narrow = [_call(builder, "llvm.aarch64.neon.sqxtn.v4i16", four_shorts, value) for value in pair]
            joined = v.pick(builder, narrow[0], narrow[1], range(8))
            joined = _call(builder, "llvm.sadd.sat.v8i16", shorts, joined, self._short_zero(builder, 8))
            bytes_.append(_call(builder, "llvm.aarch64.neon.sqxtun.v8i8", half, joined))
        return v.pick(builder, bytes_[0], bytes_[1], range(16))

    def _within(self, builder: Builder, values: Value) -> Value:
        """Bytes within the bounds, which are such themselves."""
        many = values.type.count
        for name, bound in (("umax", self.low), ("umin", self.high)):
            whole = builder.add(builder.fptosi(builder.extract_element(bound, I32(0)), I32), self._zero(builder))
            values = _call(builder, f"llvm.{name}.v{many}i8", values.type, values, _splat_of(builder, whole, I8, many))
        return values

    def _short_zero(self, builder: Builder, many: int) -> Value:
        return _splat_of(builder, self._zero(builder), I16, many)

    def _zero(self, builder: Builder) -> Value:
        return builder.extract_element(self.zero, I32(0))


def load_target(builder: Builder, fields: Value, vl: int) -> EmittedTarget:
    """From a tile's fields."""
    low, high = (v.splat(builder, v.load_f32(builder, fields, 8 * Field.CLAMP + 4 * n), vl) for n in range(2))
    zero = v.splat(builder, v.load_f32(builder, fields, 8 * Field.ZERO), vl)
    return EmittedTarget(low, high, _words(builder, zero))


def bias_of(product: Product, bias: Sums, weight_sums: Sums, zero_x: int) -> Sums:
    """What a sum of raw bytes starts with, so that it ends as Σ (q_x − zero_x) · w + bias."""
    shift = zero_x - (FLIP if product.flipped else 0)
    return (bias.astype(np.int64) - shift * weight_sums.astype(np.int64)).astype(np.int32)


def _nearest(builder: Builder, value: Value) -> Value:
    """To int32, halves to even; what is too large becomes the greatest that it may, or what stands for it."""
    vl = value.type.count
    words = ir.VectorType(I32, vl)
    if v.cpu_family(builder) == "aarch64":
        return _call(builder, "llvm.aarch64.neon.fcvtns.v4i32.v4f32", words, value)
    large = v.constant(vl, 2.0**24)  # x86 makes numbers beyond int32 the least one
    value = builder.select(builder.fcmp_ordered("<", value, large), value, large)
    if vl == BLOCK:
        undefined = ir.Constant(words, ir.Undefined)
        all_lanes, as_set = ir.Constant(I16, -1), I32(4)
        return _call(builder, "llvm.x86.avx512.mask.cvtps2dq.512", words, value, undefined, all_lanes, as_set)
    return _call(builder, {4: "llvm.x86.sse2.cvtps2dq", 8: "llvm.x86.avx.cvt.ps2dq.256"}[vl], words, value)


def _splat_of(builder: Builder, word: Value, kind: Any, many: int) -> Value:
    """The lowest bits of an int32, repeated."""
    undefined = ir.Constant(ir.VectorType(kind, many), ir.Undefined)
    one = builder.insert_element(undefined, builder.trunc(word, kind), I32(0))
    return builder.shuffle_vector(one, undefined, ir.Constant(ir.VectorType(I32, many), [0] * many))


def _store_first(builder: Builder, value: Value, count: int, base: Value, offset: int) -> None:
    """The first ``count`` bytes of a vector."""
    done = 0
    while done < count:
        size = 1 << ((count - done).bit_length() - 1)
        piece = value if size == value.type.count else v.pick(builder, value, value, range(done, done + size))
        v.store(builder, piece, base, offset + done, align=1)
        done += size


def _words(builder: Builder, value: Value) -> Value:
    kind = ir.VectorType(I32, value.type.count * value.type.element.width // 32 if _integer(value) else value.type.count)
    return value if value.type == kind else builder.bitcast(value, kind)


def _integer(value: Value) -> bool:
    return isinstance(value.type.element, ir.IntType)


def _all(kind: Any, value: int) -> Value:
    return ir.Constant(kind, [value] * kind.count)


def _call(builder: Builder, name: str, kind: Any, *values: Value) -> Value:
    module = builder.module
    signature = ir.FunctionType(kind, [value.type for value in values])
    return builder.call(module.globals.get(name) or ir.Function(module, signature, name), values)


def _vnni(builder: Builder, total: Value, x: Value, w: Value) -> Value:
    return _call(builder, f"llvm.x86.avx512.vpdpbusd.{32 * total.type.count}", total.type, total, x, w)


def _pairs(builder: Builder, total: Value, x: Value, w: Value) -> Value:
    shorts = ir.VectorType(I16, 2 * total.type.count)
    name = {4: "sse2.pmadd.wd", 8: "avx2.pmadd.wd", 16: "avx512.pmaddw.d.512"}[total.type.count]
    x, w = builder.bitcast(x, shorts), builder.bitcast(w, shorts)
    eight = _all(shorts, 8)
    even = builder.and_(x, _all(shorts, 0xFF)), builder.ashr(builder.shl(w, eight), eight)
    odd = builder.lshr(x, eight), builder.ashr(w, eight)
    for inputs, weights in (even, odd):
        total = builder.add(total, _call(builder, f"llvm.x86.{name}", total.type, inputs, weights))
    return total


def _sdot(builder: Builder, total: Value, x: Value, w: Value) -> Value:
    many = ir.VectorType(I8, 4 * total.type.count)
    name = f"llvm.aarch64.neon.sdot.v{total.type.count}i32.v{many.count}i8"
    return _call(builder, name, total.type, total, builder.bitcast(w, many), builder.bitcast(x, many))


def _smull(builder: Builder, total: Value, x: Value, w: Value) -> Value:
    many, eight, half = ir.VectorType(I8, 16), ir.VectorType(I16, 8), ir.VectorType(I8, 8)
    x, w = builder.bitcast(x, many), builder.bitcast(w, many)
    products = []
    for first in (0, 8):
        lanes = list(range(first, first + 8))
        low = v.pick(builder, x, x, lanes), v.pick(builder, w, w, lanes)
        assert low[0].type == half
        products.append(_call(builder, "llvm.aarch64.neon.smull.v8i16", eight, *low))
    pairs = _call(builder, "llvm.aarch64.neon.addp.v8i16", eight, *products)
    return builder.add(total, _call(builder, "llvm.aarch64.neon.saddlp.v4i32.v8i16", total.type, pairs))


def _plain(builder: Builder, total: Value, x: Value, w: Value) -> Value:
    for byte in range(WORD):
        own = builder.and_(builder.lshr(x, _all(x.type, 8 * byte)), _all(x.type, 0xFF))
        weight = builder.ashr(builder.shl(w, _all(w.type, 24 - 8 * byte)), _all(w.type, 24))
        total = builder.add(total, builder.mul(own, weight))
    return total


__all__ = ["F32", "WORD", "Dots", "Product", "Result", "bias_of", "host_product", "load_target", "tile_isa"]
