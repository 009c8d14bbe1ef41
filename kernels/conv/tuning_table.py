"""The table of measured choices: which algorithm was the fastest for a ConvSpec, kept per machine."""

from __future__ import annotations

import contextlib
import hashlib
import json
from functools import cache
from pathlib import Path

import llvmlite.binding as llvm

from fogconv.ir.geometry import ConvSpec
from fogconv.ir.precision.elements import HALVES
from fogconv.kernels.codegen.isa import Isa, host_multiplies
from fogconv.storage.cache_folder import cache_folder
from fogconv.storage.trusted import read_own, write_own


def key(spec: ConvSpec) -> str:
    """A spec as a word: cxHxW-fkK_hxK_wsS, then every field that differs from its default, its element after a dash."""
    word = f"{spec.in_channels}x{spec.height}x{spec.width}-{spec.out_channels}"
    word += f"k{spec.kernel[0]}x{spec.kernel[1]}s{spec.stride[0]}"
    if spec.stride[0] != spec.stride[1]:
        word += f"x{spec.stride[1]}"
    if any(spec.padding):
        word += "p" + (str(spec.padding[0]) if len(set(spec.padding)) == 1 else "x".join(map(str, spec.padding)))
    if spec.dilation != (1, 1):
        word += f"d{spec.dilation[0]}x{spec.dilation[1]}"
    word += f"g{spec.groups}" if spec.groups > 1 else ""
    word += f"n{spec.batch}" if spec.batch > 1 else ""
    return word if spec.element == "fp32" else f"{word}-{spec.element}"


def tuned_algorithm(spec: ConvSpec, isa: Isa) -> str | None:
    """The algorithm that was measured as the fastest on this machine, or None."""
    folder = cache_folder()
    return None if folder is None else _table(str(_file(folder, isa))).get(key(spec))


def _keep(spec: ConvSpec, isa: Isa, algorithm: str) -> None:
    folder = cache_folder()
    if folder is None:
        return
    file = _file(folder, isa)
    _table.cache_clear()
    table = {**_table(str(file)), key(spec): algorithm}
    with contextlib.suppress(OSError):
        write_own(file, json.dumps(table, indent=0, sort_keys=True).encode())
    _table.cache_clear()


def _file(folder: Path, isa: Isa) -> Path:
    multiplied = "".join(f"+{element}" for element in host_multiplies() if element in HALVES)
    return folder / f"tuned-{isa.name}{multiplied}-{fingerprint()}.json"


@cache
def fingerprint() -> str:
    """The CPU and the sources of the kernels, as a hash."""
    digest = hashlib.sha256(llvm.get_host_cpu_name().encode())
    for source in sorted(Path(__file__).parents[1].rglob("*.py")):
        digest.update(source.read_bytes())
    return digest.hexdigest()[:16]


@cache
def _table(file: str) -> dict[str, str]:
    try:
        table = json.loads(read_own(Path(file)))
    except (OSError, ValueError, RecursionError):
        return {}
    return {str(k): str(v) for k, v in table.items()} if isinstance(table, dict) else {}
