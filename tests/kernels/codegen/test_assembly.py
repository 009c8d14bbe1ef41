"""The machine code of the micro-kernels: sums stay in registers, multiplications are fused with additions.

Built for each instruction set on whatever machine runs the test: nothing is executed.
"""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial

import pytest

from bench.neon import machine_code
from bench.neon.loops import Loop, loops
from bench.neon.machine_code import AARCH64, STACK, VECTOR_ON_STACK, Emit, Target, fused, hot_loop
from bench.neon.trace import trace
from fogconv.ir.precision.elements import HALVES, Half
from fogconv.kernels.codegen import activation, emit
from fogconv.kernels.codegen.isa import AVX2, AVX512, NEON, Isa
from fogconv.kernels.codegen.microkernel import emit_tile
from fogconv.kernels.codegen.quads import QUAD
from fogconv.kernels.codegen.tile.arithmetic import Floats
from fogconv.kernels.codegen.tile.pairs import Pairs
from fogconv.kernels.codegen.tile.tile import make_tile
from fogconv.kernels.conv import depthwise, winograd_passes
from fogconv.kernels.conv.halves import halves_isa
from fogconv.kernels.conv.tiling import group_sizes, most_pixels
from fogconv.kernels.conv.winograd_matrices import Form
from fogconv.kernels.conv.winograd_transforms import emit_input, emit_output
from fogconv.kernels.quantized.arithmetic import Dots, Product, Result, tile_isa, unrolled

TARGETS = {
    AVX512: Target("x86_64-unknown-linux-gnu", "skylake-avx512", "-prefer-256-bit"),
    AVX2: Target("x86_64-unknown-linux-gnu", "haswell"),
    NEON: Target(AARCH64, "cortex-a72"),
}
MULTIPLY_OR_ADD = re.compile(r"^\s*(vmulps|vaddps|fmul|fadd)\s.*(zmm|ymm|xmm|\.4s)")


def assembly(isa: Isa, emit: Emit, arguments: int) -> list[str]:
    return machine_code.assembly(TARGETS[isa], emit, arguments)


def shapes(isa: Isa) -> list[tuple[int, int, int]]:
    """The largest tile for each number of vectors that the tiling uses; the third is 4 for quads."""
    sizes = sorted({*range(1, group_sizes(isa)[-1] + 1)})
    whole = [(vectors, most_pixels(isa, vectors), isa.vector_length) for vectors in sizes]
    return whole + [(quads, most_pixels(isa, quads), QUAD) for quads in (1, 2, 3) if isa.quads]


@pytest.mark.parametrize(
    ("isa", "vectors", "pixels", "vl"),
    [(isa, *shape) for isa in TARGETS for shape in shapes(isa)],
    ids=lambda value: value.name if isinstance(value, Isa) else str(value),
)
def test_the_hot_loop_of_a_tile_has_only_fused_products_and_no_spills(isa: Isa, vectors: int, pixels: int, vl: int) -> None:
    tile = make_tile(isa, 1, pixels, vectors, 16, vl, coming=1)
    loop = hot_loop(assembly(isa, lambda builder, *a: emit_tile(builder, tile, *a), 7))
    fetches = [line for line in loop if line.split()[:1] == ["prefetcht1"]]
    assert len(fetches) == (tile.unroll if tile.coming else 0)
    assert fused(loop) == tile.unroll * pixels * vectors // (QUAD if tile.quads else 1)
    assert not [line for line in loop if MULTIPLY_OR_ADD.match(line)]
    assert not [line for line in loop if STACK.search(line)]


@pytest.mark.parametrize("isa", [AVX512, NEON], ids=lambda isa: isa.name)
@pytest.mark.parametrize(("name", "emit", "arguments"), [("input", emit_input, 6), ("output", emit_output, 11)])
def test_a_tile_that_is_too_large_for_the_registers_is_moved_once(isa: Isa, name: str, emit: Emit, arguments: int) -> None:
    """F(6×6, 3×3): its columns to the stack, at an address that LLVM does not know, its rows from there. 32 registers hold
    a column with all that is made of it: LLVM itself moves at most the bounds of outputs to the stack."""
    form = Form((6, 6), (3, 3))
    assert winograd_passes.pays(form, isa)
    lines = assembly(isa, partial(emit, form=form, isa=isa), arguments)
    spill = VECTOR_ON_STACK if isa is NEON else re.compile(r"zmm.*%rsp|%rsp.*zmm")
    assert len([line for line in lines if spill.search(line)]) <= 4


VNNI = {
    AVX512: Target("x86_64-unknown-linux-gnu", "icelake-server", "-prefer-256-bit"),
    AVX2: Target("x86_64-unknown-linux-gnu", "alderlake"),
    NEON: Target(AARCH64, "cortex-a76"),
}
"""CPUs that sum four products of bytes at once."""


@pytest.mark.parametrize("dots", [True, False], ids=["dots", "pairs"])
@pytest.mark.parametrize(("isa", "vectors"), [(isa, n) for isa in VNNI for n in group_sizes(isa)], ids=str)
def test_the_hot_loop_on_bytes_has_one_instruction_per_product_and_no_spills(isa: Isa, vectors: int, dots: bool) -> None:
    fast, slow = (Product.SDOT, Product.SMULL) if isa is NEON else (Product.VNNI, Product.PAIRS)
    by = fast if dots else slow
    pixels = most_pixels(tile_isa(isa, by), vectors)
    tile = replace(make_tile(isa, 1, pixels, vectors, 4, isa.vector_length), unroll=unrolled(isa, by))
    target = (VNNI if dots else TARGETS)[isa]
    lines = machine_code.assembly(
        target, lambda builder, *a: emit_tile(builder, tile, *a, arithmetic=Dots(by, Result.BYTES)), 7
    )
    loop = hot_loop(lines)
    assert fused(loop) == (1 if dots else 2) * tile.unroll * pixels * vectors
    assert not [line for line in loop if STACK.search(line)]
    assert not [line for line in loop if "vpmaddubsw" in line]


PAIRS = Target("x86_64-unknown-linux-gnu", "cooperlake", "-prefer-256-bit")
"""A CPU that multiplies pairs of bf16."""


@pytest.mark.parametrize("vectors", group_sizes(AVX512))
def test_the_hot_loop_on_pairs_has_one_instruction_per_product_and_no_spills(vectors: int) -> None:
    pixels = most_pixels(halves_isa(AVX512, "bf16"), vectors)
    tile = make_tile(AVX512, 1, pixels, vectors, 8, 16)
    lines = machine_code.assembly(PAIRS, lambda builder, *a: emit_tile(builder, tile, *a, arithmetic=Pairs(True, "bf16")), 7)
    loop = hot_loop(lines)
    assert len([line for line in loop if line.split()[0] == "vdpbf16ps"]) == tile.unroll * pixels * vectors
    assert not [line for line in loop if STACK.search(line)]


@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize(("isa", "vectors"), [(isa, n) for isa in TARGETS for n in group_sizes(isa)], ids=str)
def test_the_hot_loop_with_weights_of_16_bits_is_that_of_floats_but_for_their_widening(
    isa: Isa, vectors: int, half: Half
) -> None:
    pixels = most_pixels(halves_isa(isa, "fp32"), vectors)
    tile = make_tile(isa, 1, pixels, vectors, 16, isa.vector_length, weights=half)
    lines = assembly(isa, lambda builder, *a: emit_tile(builder, tile, *a, arithmetic=Floats(True, half)), 7)
    loop = hot_loop(lines)
    assert fused(loop) == tile.unroll * pixels * vectors
    assert not [line for line in loop if STACK.search(line)]


@pytest.mark.parametrize("lanes", [8, 16])
@pytest.mark.parametrize("isa", TARGETS, ids=lambda isa: isa.name)
def test_a_depthwise_tile_is_all_fused_products(isa: Isa, lanes: int) -> None:
    (rows, columns), vl = depthwise.largest_tile(isa), min(lanes, depthwise.vector_lanes(isa))
    tile = depthwise.DepthTile(rows, columns, (3, 3), (1, 1), (1, 1), 1, vl, True, lanes)
    lines = assembly(isa, lambda builder, *a: depthwise.emit_tile(builder, tile, *a), 6)
    assert fused(lines) >= 9 * rows * columns


def test_a_tile_too_large_for_the_registers_is_seen_to_spill() -> None:
    tile = make_tile(AVX2, 1, 14, 2, 16, 8)
    loop = hot_loop(assembly(AVX2, lambda builder, *a: emit_tile(builder, tile, *a), 7))
    assert [line for line in loop if STACK.search(line)]


PRICED = [(loop, board) for loop in loops() for board in loop.boards]


@pytest.mark.parametrize(("loop", "board"), PRICED, ids=lambda value: getattr(value, "name", value))
def test_no_call_for_aarch64_keeps_a_vector_on_the_stack(loop: Loop, board: str) -> None:
    lines = machine_code.assembly(Target(AARCH64, board), loop.emit, len(loop.arguments))
    assert not [line for line in trace(lines, loop.arguments, loop.memory) if VECTOR_ON_STACK.search(line)]
    if not loop.whole:
        assert not [line for line in hot_loop(lines) if STACK.search(line)]


@pytest.mark.parametrize("name", ["relu", "relu6"])
def test_a_clamp_for_aarch64_is_one_instruction_per_bound(name: str) -> None:
    def clamp(builder: emit.Builder, address: emit.Value) -> None:
        emit.store(builder, getattr(activation, name)(builder, emit.load(builder, address, 4)), address)

    lines = assembly(NEON, clamp, 1)
    bounds = [line.split()[0] for line in lines if re.match(r"\s*(fmax|fmin|fcm|bi[tf]|bsl)", line)]
    assert bounds == {"relu": ["fmax"], "relu6": ["fmax", "fmin"]}[name]
