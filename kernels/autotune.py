"""Measured choices, kept per machine: which algorithm was the fastest for a ConvSpec.

One small JSON file in the cache folder, named after the CPU and the versions of the kernels, so that an upgrade starts
anew. `python -m fogconv.kernels.autotune 64x56x56-64k3x3s1p1 …` measures; without it the cost rule in
`fogconv.kernels.select` decides.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import sys
import tempfile
import time
from functools import cache
from pathlib import Path

import llvmlite.binding as llvm
import numpy as np

from fogconv.errors import KernelError
from fogconv.geometry import ConvSpec
from fogconv.kernels.blocked import Blocked, pack
from fogconv.kernels.isa import Isa, host_isa
from fogconv.kernels.jit import cache_folder

ROUNDS = 9
"""Interleaved runs per algorithm; the fastest of each counts."""


def key(spec: ConvSpec) -> str:
    """A spec as a word: cxHxW-fkK_hxK_wsS, then what differs from its default."""
    word = f"{spec.in_channels}x{spec.height}x{spec.width}-{spec.out_channels}"
    word += f"k{spec.kernel[0]}x{spec.kernel[1]}s{spec.stride[0]}"
    if spec.stride[0] != spec.stride[1]:
        word += f"x{spec.stride[1]}"
    if any(spec.padding):
        word += "p" + (str(spec.padding[0]) if len(set(spec.padding)) == 1 else "x".join(map(str, spec.padding)))
    if spec.dilation != (1, 1):
        word += f"d{spec.dilation[0]}x{spec.dilation[1]}"
    word += f"g{spec.groups}" if spec.groups > 1 else ""
    return word + (f"n{spec.batch}" if spec.batch > 1 else "")


def parse(word: str) -> ConvSpec:
    """The inverse of `key`. Raises KernelError for anything else."""
    number = r"(\d+(?:x\d+)*)"
    shape, more = r"(\d+)x(\d+)x(\d+)-(\d+)", r"(?:g(\d+))?(?:n(\d+))?"
    match = re.fullmatch(rf"{shape}k{number}s{number}(?:p{number})?(?:d{number})?{more}", word)
    if match is None:
        raise KernelError(f"{word!r} is no convolution; write it like 64x56x56-64k3x3s1p1")
    c, h, w, f, kernel, stride, padding, dilation, groups, batch = match.groups()

    def numbers(text: str | None, count: int, default: int) -> tuple[int, ...]:
        values = tuple(map(int, text.split("x"))) if text else (default,)
        if len(values) not in (1, count):
            raise KernelError(f"{word!r}: {text} must be one number or {count}")
        return values * (count if len(values) == 1 else 1)

    top, bottom, left, right = numbers(padding, 4, 0)
    k, s, d = numbers(kernel, 2, 1), numbers(stride, 2, 1), numbers(dilation, 2, 1)
    pad = (top, bottom, left, right)
    numbered = int(c), int(f), int(h), int(w), (k[0], k[1]), (s[0], s[1]), pad, (d[0], d[1])
    return ConvSpec(*numbered, int(groups or 1), int(batch or 1))


def tuned_algorithm(spec: ConvSpec, isa: Isa) -> str | None:
    """What was measured to be the fastest here, if anything was."""
    folder = cache_folder()
    return None if folder is None else _table(str(_file(folder, isa))).get(key(spec))


def tune(spec: ConvSpec) -> dict[str, float]:
    """Measure every algorithm on one thread and keep the fastest: seconds by algorithm."""
    from fogconv.kernels.conv import prepare_conv2d  # these modules need each other
    from fogconv.kernels.select import candidates

    isa = host_isa()
    random = np.random.default_rng(0)
    weight = random.standard_normal(spec.weight_shape, dtype=np.float32)
    x = random.standard_normal(spec.input_shape, dtype=np.float32)
    calls = {}
    for name in candidates(spec, isa):
        prepared = prepare_conv2d(spec, weight, algorithm=name)
        calls[name] = prepared.bind(pack(x, out=prepared.empty_input()), Blocked.empty(*spec.output_shape))
    best = dict.fromkeys(calls, float("inf"))
    for _ in range(ROUNDS):
        for name, call in calls.items():
            call()
            start = time.perf_counter()
            call()
            best[name] = min(best[name], time.perf_counter() - start)
    _keep(spec, isa, min(best, key=lambda name: best[name]))
    return best


def _keep(spec: ConvSpec, isa: Isa, algorithm: str) -> None:
    folder = cache_folder()
    if folder is None:
        return
    file = _file(folder, isa)
    _table.cache_clear()
    table = {**_table(str(file)), key(spec): algorithm}
    with contextlib.suppress(OSError):
        handle, temporary = tempfile.mkstemp(dir=folder, prefix="writing-")
        with os.fdopen(handle, "w") as stream:
            json.dump(table, stream, indent=0, sort_keys=True)
        Path(temporary).replace(file)
    _table.cache_clear()


def _file(folder: Path, isa: Isa) -> Path:
    return folder / f"tuned-{isa.name}-{_machine()}.json"


@cache
def _machine() -> str:
    """The CPU and the sources of the kernels, as a hash."""
    digest = hashlib.sha256(llvm.get_host_cpu_name().encode())
    for source in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(source.read_bytes())
    return digest.hexdigest()[:16]


@cache
def _table(file: str) -> dict[str, str]:
    try:
        table = json.loads(Path(file).read_text())
    except (OSError, ValueError):
        return {}
    return {str(k): str(v) for k, v in table.items()} if isinstance(table, dict) else {}


def main(words: list[str]) -> None:
    for word in words:
        seconds = tune(parse(word))
        print(word, ", ".join(f"{name} {1e6 * s:.0f} µs" for name, s in sorted(seconds.items(), key=lambda item: item[1])))


if __name__ == "__main__":
    main(sys.argv[1:])
