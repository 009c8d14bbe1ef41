"""The figures of all loops, and those that were recorded, against which `tests/bench/test_neon.py` holds them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import llvmlite

from bench.neon.llvm_mca import Mca
from bench.neon.loops import loops
from bench.neon.machine_code import AARCH64, STACK, VECTOR_ON_STACK, Target, assembly, fused, hot_loop, instructions
from bench.neon.trace import trace

RECORD = Path(__file__).with_name("recorded.json")

CORES = {"cortex-a72": "cortex-a72", "neoverse-n1": "cortex-a76", "cortex-a76": "cortex-a76"}
"""The core whose model prices the code, and the one for which it is emitted."""


def measure(mca: Mca) -> dict[str, Any]:
    """``{"loops": [{"name", "cpu", "cycles_per_fma", "spills"}]}``: spills are instructions per call, or per round of a
    hot loop, that keep a vector on the stack or fetch it from there."""
    found = []
    for loop in loops():
        for cpu, emitted_for in CORES.items():
            if not mca.knows(cpu):
                continue
            lines = assembly(Target(AARCH64, emitted_for), loop.emit, len(loop.arguments))
            code = trace(lines, loop.arguments, loop.memory) if loop.whole else instructions(hot_loop(lines))
            spill = VECTOR_ON_STACK if loop.whole else STACK
            found.append(
                {
                    "name": loop.name,
                    "cpu": cpu,
                    "cycles_per_fma": round(mca.cycles(code, cpu) / fused(code), 4),
                    "spills": sum(bool(spill.search(line)) for line in code),
                }
            )
    return {"loops": found}


def versions(mca: Mca) -> dict[str, str]:
    """What the figures depend on besides the kernels."""
    return {"llvm_mca": mca.version, "llvmlite": str(llvmlite.__version__)}


def read_record() -> dict[str, Any]:
    """The recorded figures and versions."""
    return dict(json.loads(RECORD.read_text())) if RECORD.exists() else {"loops": []}


def write_record(figures: dict[str, Any], mca: Mca) -> None:
    """One line per loop, so that a change is seen in a diff."""
    lines = ",\n".join(f"    {json.dumps(loop, ensure_ascii=False)}" for loop in figures["loops"])
    RECORD.write_text(f'{{\n  "versions": {json.dumps(versions(mca))},\n  "loops": [\n{lines}\n  ]\n}}\n')


def recorded_cycles(record: dict[str, Any]) -> dict[tuple[str, str], float]:
    """Cycles per FMA by name and core."""
    return {(loop["name"], loop["cpu"]): loop["cycles_per_fma"] for loop in record["loops"]}
