"""Machine code of emitted functions, as lines of assembly, for any target: nothing is executed."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir

from fogconv.kernels.codegen.emit import I64

Emit = Callable[..., None]
"""emit(builder, *addresses): a function's body; it may end in any block."""

FMA = re.compile(r"^\s*(?:\{vex\}\s+)?(vfmadd\d+ps|fmla|vpdpbusd|vpmaddwd|sdot|smull2?)\s")
"""Fused multiply-adds, and the instructions that multiply bytes: 16 products of sdot, 8 of smull."""

STACK = re.compile(r"%rsp|\[sp")
VECTOR_ON_STACK = re.compile(r"^\s*(?:ld|st)[a-z]+\s+q\d+.*\[sp")
"""A spill of a vector on aarch64; d8 to d15, which a function must keep for its caller, are none."""

LABEL = re.compile(r"^(\.L\w+):")
JUMP = re.compile(r"^\s*(?:j\w+|b|b\.\w+|cbn?z\s+\w+,|tbn?z\s+\w+,\s*#\d+,)\s+(\.L\w+)")


@dataclass(frozen=True, slots=True)
class Target:
    """What code is emitted for, in LLVM's words."""

    triple: str
    cpu: str
    features: str = ""


AARCH64 = "aarch64-unknown-linux-gnu"


def assembly(target: Target, emit: Emit, arguments: int) -> list[str]:
    """The lines of a function of so many 64-bit integers, optimised as numba does it."""
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    module = ir.Module()
    module.triple = target.triple
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [I64] * arguments), "tile")
    builder = ir.IRBuilder(function.append_basic_block())
    emit(builder, *function.args)
    builder.ret_void()
    made = llvm.Target.from_triple(target.triple)
    machine: Any = made.create_target_machine(cpu=target.cpu, features=target.features, opt=3)
    parsed = llvm.parse_assembly(str(module))
    parsed.verify()
    passes: Any = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(speed_level=3))
    passes.getModulePassManager().run(parsed, passes)
    return str(machine.emit_assembly(parsed)).splitlines()


def hot_loop(lines: Sequence[str]) -> list[str]:
    """The shortest loop among those with the most fused multiply-adds per round."""
    places = {match[1]: number for number, line in enumerate(lines) if (match := LABEL.match(line))}
    loops = []
    for number, line in enumerate(lines):
        if (match := JUMP.match(line)) and places.get(match[1], number) < number:
            loops.append(list(lines[places[match[1]] : number + 1]))
    inner = [loop for loop in loops if not any(JUMP.match(line) for line in loop[:-1])]
    return max(inner, key=fused)


def fused(lines: Sequence[str]) -> int:
    """The number of fused multiply-adds, or of the instructions that multiply bytes."""
    return sum(bool(FMA.match(line)) for line in lines)


def instructions(lines: Sequence[str]) -> list[str]:
    """The instructions alone, without labels, directives and comments."""
    found = (line.split("//")[0].strip() for line in lines)
    return [line for line in found if line and not line.startswith(".") and not line.endswith(":")]
