"""The machine code of the micro-kernels: sums stay in registers, multiplications are fused with additions.

Built for each instruction set on whatever machine runs the test: nothing is executed.
"""

from __future__ import annotations

import re

import llvmlite.binding as llvm
import pytest
from llvmlite import ir

from fogconv.kernels.codegen import emit as v
from fogconv.kernels.codegen.isa import AVX2, AVX512, NEON, Isa
from fogconv.kernels.codegen.microkernel import emit_tile, make_tile
from fogconv.kernels.codegen.quads import QUAD
from fogconv.kernels.conv import depthwise
from fogconv.kernels.conv.tiling import group_sizes, most_pixels

TARGETS = {
    AVX512: ("x86_64-unknown-linux-gnu", "skylake-avx512", "-prefer-256-bit"),
    AVX2: ("x86_64-unknown-linux-gnu", "haswell", ""),
    NEON: ("aarch64-unknown-linux-gnu", "cortex-a72", ""),
}

FMA = re.compile(r"^\s*(vfmadd\d+ps|fmla)\s")
MULTIPLY_OR_ADD = re.compile(r"^\s*(vmulps|vaddps|fmul|fadd)\s.*(zmm|ymm|xmm|\.4s)")
STACK = re.compile(r"%rsp|\[sp")
LABEL = re.compile(r"^(\.L\w+):")
JUMP = re.compile(r"^\s*(?:j\w+|b|b\.\w+|cbn?z\s+\w+,|tbn?z\s+\w+,\s*#\d+,)\s+(\.L\w+)")


def assembly(isa: Isa, emit: object, arguments: int) -> list[str]:
    """The instructions of ``emit(builder, *addresses)`` as a function."""
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    triple, cpu, features = TARGETS[isa]
    module = ir.Module()
    module.triple = triple
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [v.I64] * arguments), "tile")
    builder = ir.IRBuilder(function.append_basic_block())
    emit(builder, *function.args)  # type: ignore[operator]
    builder.ret_void()
    machine = llvm.Target.from_triple(triple).create_target_machine(cpu=cpu, features=features, opt=3)
    parsed = llvm.parse_assembly(str(module))
    parsed.verify()
    passes = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(speed_level=3))
    passes.getModulePassManager().run(parsed, passes)
    return machine.emit_assembly(parsed).splitlines()


def hot_loop(lines: list[str]) -> list[str]:
    """The shortest loop among those with the most fused multiply-adds per round."""
    places = {match[1]: number for number, line in enumerate(lines) if (match := LABEL.match(line))}
    loops = []
    for number, line in enumerate(lines):
        if (match := JUMP.match(line)) and places.get(match[1], number) < number:
            loops.append(lines[places[match[1]] : number])
    inner = [loop for loop in loops if not any(JUMP.match(line) for line in loop)]
    return max(inner, key=lambda loop: sum(bool(FMA.match(line)) for line in loop))


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
    tile = make_tile(isa, 1, pixels, vectors, 16, vl)
    loop = hot_loop(assembly(isa, lambda builder, *a: emit_tile(builder, tile, *a), 7))
    assert sum(bool(FMA.match(line)) for line in loop) == tile.unroll * pixels * vectors // (QUAD if tile.quads else 1)
    assert not [line for line in loop if MULTIPLY_OR_ADD.match(line)]
    assert not [line for line in loop if STACK.search(line)]


@pytest.mark.parametrize("lanes", [8, 16])
@pytest.mark.parametrize("isa", TARGETS, ids=lambda isa: isa.name)
def test_a_depthwise_tile_is_all_fused_products(isa: Isa, lanes: int) -> None:
    rows, columns = (2, 7) if isa.registers > 16 else (1, 6)
    tile = depthwise.DepthTile(rows, columns, (3, 3), (1, 1), (1, 1), 1, min(lanes, isa.vector_length), True, lanes)
    lines = assembly(isa, lambda builder, *a: depthwise.emit_tile(builder, tile, *a), 6)
    assert sum(bool(FMA.match(line)) for line in lines) >= 9 * rows * columns


def test_a_tile_too_large_for_the_registers_is_seen_to_spill() -> None:
    tile = make_tile(AVX2, 1, 14, 2, 16, 8)
    loop = hot_loop(assembly(AVX2, lambda builder, *a: emit_tile(builder, tile, *a), 7))
    assert [line for line in loop if STACK.search(line)]
