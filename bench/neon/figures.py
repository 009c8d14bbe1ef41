"""The figures of all loops, and those that were recorded, against which `tests/bench/test_neon.py` holds them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import llvmlite

from bench.neon.llvm_mca import Mca
from bench.neon.loops import Loop, loops, transforms
from bench.neon.machine_code import AARCH64, STACK, VECTOR_ON_STACK, Target, assembly, fused, hot_loop, instructions
from bench.neon.trace import trace

RECORD = Path(__file__).with_name("recorded.json")

CORES = {"cortex-a72": "cortex-a72", "neoverse-n1": "cortex-a76", "cortex-a76": "cortex-a76"}
"""The core whose model prices the code, and the one for which it is emitted."""


def measure(mca: Mca) -> dict[str, Any]:
    """``{"loops": [{"name", "cpu", "cycles_per_fma", "spills"}], "transforms": [{"name", "cpu", "cycles_per_element",
    "spills"}]}``. On bytes a "fma" is one instruction that multiplies: 16 products by sdot, 8 by smull; in
    fp16 one of 8 products. Spills are
    instructions per call, or per round of a hot loop, that keep a vector on the stack or fetch it from there. Transforms are
    Winograd's: cycles per element of a tile and block of 16 channels."""
    cores = [(cpu, Target(AARCH64, emitted_for)) for cpu, emitted_for in CORES.items() if mca.knows(cpu)]
    found: list[dict[str, Any]] = []
    for loop in loops():
        for cpu, target in cores:
            if target.cpu not in loop.boards:
                continue
            code = _code(loop, target)
            cycles = round(mca.cycles(code, cpu) / fused(code), 4)
            found.append({"name": loop.name, "cpu": cpu, "cycles_per_fma": cycles, "spills": _spills(code, loop.whole)})
    tiles: list[dict[str, Any]] = []
    for tile in transforms():
        for cpu, target in cores:
            code = _code(tile.code, target)
            cycles = round(mca.cycles(code, cpu) / tile.elements, 3)
            tiles.append({"name": tile.code.name, "cpu": cpu, "cycles_per_element": cycles, "spills": _spills(code, True)})
    return {"loops": found, "transforms": tiles}


def _code(loop: Loop, target: Target) -> list[str]:
    lines = assembly(target, loop.emit, len(loop.arguments))
    return trace(lines, loop.arguments, loop.memory) if loop.whole else instructions(hot_loop(lines))


def _spills(code: list[str], whole: bool) -> int:
    spill = VECTOR_ON_STACK if whole else STACK
    return sum(bool(spill.search(line)) for line in code)


def versions(mca: Mca) -> dict[str, str]:
    """What the figures depend on besides the kernels."""
    return {"llvm_mca": mca.version, "llvmlite": str(llvmlite.__version__)}


def read_record() -> dict[str, Any]:
    """The recorded figures and versions."""
    return dict(json.loads(RECORD.read_text())) if RECORD.exists() else {"loops": [], "transforms": []}


def write_record(figures: dict[str, Any], mca: Mca) -> None:
    """One line per figure, so that a change is seen in a diff."""
    parts = [f'  "versions": {json.dumps(versions(mca))}']
    for kind, found in figures.items():
        lines = ",\n".join(f"    {json.dumps(one, ensure_ascii=False)}" for one in found)
        parts.append(f'  "{kind}": [\n{lines}\n  ]')
    RECORD.write_text("{\n" + ",\n".join(parts) + "\n}\n")


def recorded_cycles(record: dict[str, Any]) -> dict[tuple[str, str], float]:
    """Cycles per FMA, or per element of a transform, by name and core."""
    found = {(loop["name"], loop["cpu"]): loop["cycles_per_fma"] for loop in record["loops"]}
    return found | {(tile["name"], tile["cpu"]): tile["cycles_per_element"] for tile in record["transforms"]}
