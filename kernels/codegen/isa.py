"""The instruction sets for which micro-kernels exist, and which one this process uses.

name     vector length  quads  registers  fused
avx512        16         yes      32      yes
avx2           8         no       16      yes
neon           4         no       32      yes      aarch64
generic        4         no       16      no       anything else: correct, not fast

Products of bytes (`fogconv.kernels.quantized`) are summed in fours where the CPU has instructions for it: AVX512-VNNI,
AVX-VNNI, or aarch64's dot products. `host_dots` says so; $FOGCONV_ISA asks for them as "avx2+dots". Pairs of bf16 are
multiplied at once where there is AVX512-BF16, and fp16 where aarch64 has FEAT_FP16, if dots are asked for.
"""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import llvmlite.binding as llvm

from fogconv.errors import KernelError
from fogconv.ir.memory.algorithm import Vectors
from fogconv.ir.precision.elements import Element

NUMBA_SETTINGS = ".numba_config.yaml"
"""numba reads settings from its environment variables and from this file in the current folder."""


@dataclass(frozen=True, slots=True)
class Isa:
    """One instruction set: floats per vector register, number of vector registers, whether it can fuse multiply and add."""

    name: str
    vector_length: int
    registers: int
    fused: bool = True
    quads: bool = False
    """Whether a last block of up to 12 output channels is summed 4 × 4 (see `fogconv.kernels.codegen.quads`)."""
    pixels: tuple[int, ...] = ()
    """The most pixels of a tile by its vectors of output channels (1, 2, …), where `fogconv.kernels.conv.tiling` can't tell
    it by the registers."""


AVX512 = Isa("avx512", 16, 32, quads=True)
AVX2 = Isa("avx2", 8, 16)
NEON = Isa("neon", 4, 32)
GENERIC = Isa("generic", 4, 16, fused=False)

ISAS = {isa.name: isa for isa in (AVX512, AVX2, NEON, GENERIC)}


def host_isa() -> Isa:
    """The instruction set that kernels are built for: $FOGCONV_ISA, or the best that this CPU has.

    Vectors longer than the CPU's registers still run, slowly (LLVM splits them), so that every instruction set can be
    tested on any CPU. Raises KernelError for a name that is not in ``ISAS``.
    """
    return _isa(os.environ.get("FOGCONV_ISA", ""))


DOTS = "+dots"


def host_dots() -> bool:
    """Whether kernels sum products of bytes in fours by one instruction: as $FOGCONV_ISA says where it is set, or else where
    this CPU can. An instruction that the CPU lacks is emulated, slowly."""
    return _dots(os.environ.get("FOGCONV_ISA", ""))


def host_pairs(isa: Isa) -> bool:
    """Whether kernels multiply pairs of bf16 by one instruction: as `host_dots`, and only where this CPU can."""
    return isa.name == AVX512.name and host_dots() and {"avx512bf16", "avx512vl"} <= cpu_features()


def host_eights(isa: Isa) -> bool:
    """Whether kernels multiply and add fp16, eight at a time: as `host_dots`, and only where this CPU can."""
    return isa.name == NEON.name and host_dots() and "fullfp16" in cpu_features()


def host_multiplies() -> tuple[Element, ...]:
    """The elements narrower than fp32 of which kernels multiply several by one instruction."""
    isa = host_isa()
    found: dict[Element, bool] = {"uint8": host_dots(), "fp16": host_eights(isa), "bf16": host_pairs(isa)}
    return tuple(element for element, there in found.items() if there)


SPLIT_512 = ("znver4", "cannonlake", "icelake-client", "tigerlake", "rocketlake")
"""LLVM's names of CPUs that multiply and add one vector of 16 floats per clock, where others do two."""


def half_rate(isa: Isa) -> bool:
    """Whether this CPU multiplies and adds 16 floats per clock, in two vectors of 8 or in one of 16, and not 32."""
    return isa.name == AVX2.name or (isa.name == AVX512.name and llvm.get_host_cpu_name() in SPLIT_512)


def host_vectors() -> Vectors:
    """What the rule of algorithms knows of this CPU."""
    isa = host_isa()
    return Vectors(isa.vector_length, half_rate(isa))


@cache
def _dots(wanted: str) -> bool:
    isa = _isa(wanted)
    if wanted:
        return wanted.endswith(DOTS)
    features = cpu_features()
    if isa is AVX512:
        return "avx512vnni" in features
    return {AVX2: "avxvnni", NEON: "dotprod"}.get(isa, "-") in features


@cache
def _isa(wanted: str) -> Isa:
    if wanted:
        name = wanted.removesuffix(DOTS)
        if name not in ISAS:
            raise KernelError(f"FOGCONV_ISA is {wanted!r}; it must be one of {', '.join(ISAS)}")
        return ISAS[name]
    if llvm.get_process_triple().startswith(("aarch64", "arm64")):
        return NEON
    features = _features()
    if {"avx512f", "avx512vl", "avx512dq", "avx512bw"} <= features:
        return AVX512
    return AVX2 if {"avx2", "fma"} <= features else GENERIC


def host_family() -> str:
    """The kind of CPU that this process runs on: "x86", "aarch64" or ""."""
    name = llvm.get_process_triple().partition("-")[0]
    return {"x86_64": "x86", "aarch64": "aarch64", "arm64": "aarch64"}.get(name, "")


@cache
def cpu_features() -> frozenset[str]:
    """The CPU features that kernels may use, read once."""
    features = _features()
    if "NUMBA_CPU_NAME" in os.environ and host_family() == "aarch64":
        # Numba then generates code for that CPU by its name, and LLVM's own list may be empty (qemu-user).
        found = _auxiliary(AT_HWCAP)
        return features | {name for name, bit in HWCAPS.items() if found & bit}
    return features


AT_HWCAP, HWCAPS = 16, {"dotprod": 1 << 20, "fullfp16": 1 << 10}
"""Linux on aarch64: the entry that tells what the CPU can do, and its bits for dot products of bytes and for fp16."""


def _auxiliary(entry: int) -> int:
    """An entry of the process's auxiliary vector."""
    return int(ctypes.CDLL(None).getauxval(ctypes.c_ulong(entry)))


def _features() -> frozenset[str]:
    """The CPU features that numba generates code for: $NUMBA_CPU_FEATURES where set, else the CPU's own."""
    # Imported late: importing numba takes longer than the rest of a worker's start, and this module is used early.
    if "NUMBA_CPU_FEATURES" in os.environ or Path(NUMBA_SETTINGS).exists():
        from numba.core import config

        override: str | None = getattr(config, "CPU_FEATURES", None)
    else:
        override = None
    if override is not None:
        return frozenset(feature[1:] for feature in override.split(",") if feature.startswith("+"))
    return frozenset(name for name, present in llvm.get_host_cpu_features().items() if present)
