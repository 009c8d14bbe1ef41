"""Measured choices, kept per machine: which algorithm was the fastest for a ConvSpec.

One small JSON file in the cache folder, named after the CPU and the versions of the kernels, so that an upgrade starts a
new file. `python -m fogconv.kernels.conv.autotune 64x56x56-64k3x3s1p1 …` measures; without it the cost rule in
`fogconv.kernels.conv.select` decides.
"""

from __future__ import annotations

import re
import sys
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fogconv.errors import KernelError
from fogconv.ir.geometry import ConvSpec
from fogconv.ir.precision.elements import HALVES, WEIGHTS_OF, Element
from fogconv.ir.precision.halves import rounded
from fogconv.kernels.codegen.isa import host_isa
from fogconv.kernels.conv.tuning_table import _keep
from fogconv.kernels.maps.blocked import Blocked
from fogconv.kernels.maps.halves import bind_narrow
from fogconv.kernels.maps.pack import pack

ROUNDS = 9
"""Interleaved runs per algorithm; the fastest of each counts."""


def parse(word: str) -> ConvSpec:
    """The inverse of `key`. Raises KernelError for anything else."""
    number = r"(\d+(?:x\d+)*)"
    shape, more = r"(\d+)x(\d+)x(\d+)-(\d+)", r"(?:g(\d+))?(?:n(\d+))?(?:-(fp16|bf16))?"
    match = re.fullmatch(rf"{shape}k{number}s{number}(?:p{number})?(?:d{number})?{more}", word)
    if match is None:
        raise KernelError(f"{word!r} is not a convolution; write it like 64x56x56-64k3x3s1p1, or with -bf16 at its end")
    c, h, w, f, kernel, stride, padding, dilation, groups, batch, element = match.groups()

    def numbers(text: str | None, count: int, default: int) -> tuple[int, ...]:
        values = tuple(map(int, text.split("x"))) if text else (default,)
        if len(values) not in (1, count):
            raise KernelError(f"{word!r}: {text} must be one number or {count}")
        return values * (count if len(values) == 1 else 1)

    top, bottom, left, right = numbers(padding, 4, 0)
    k, s, d = numbers(kernel, 2, 1), numbers(stride, 2, 1), numbers(dilation, 2, 1)
    pad = (top, bottom, left, right)
    numbered = int(c), int(f), int(h), int(w), (k[0], k[1]), (s[0], s[1]), pad, (d[0], d[1])
    multiplied: Element = next((half for half in HALVES if half == element), "fp32")
    return ConvSpec(*numbered, int(groups or 1), int(batch or 1), multiplied)


def tune(spec: ConvSpec) -> dict[str, float]:
    """Measure every algorithm on one thread and keep the fastest: seconds by algorithm."""
    from fogconv.kernels.conv.conv import prepare_conv2d  # imported here because the modules import each other
    from fogconv.kernels.conv.select import candidates

    isa = host_isa()
    random = np.random.default_rng(0)
    weight: NDArray[Any] = random.standard_normal(spec.weight_shape, dtype=np.float32)
    x = random.standard_normal(spec.input_shape, dtype=np.float32)
    if spec.element in HALVES:
        weight = rounded(weight, spec.element)
    calls = {}
    for name in candidates(spec, isa):
        prepared = prepare_conv2d(spec, weight, algorithm=name)
        source = prepared.empty_input()
        if prepared.reads == "fp32":
            pack(x, out=source)
        else:
            bind_narrow(pack(x), source)()
        made: Element = spec.element if prepared.makes_halves else "fp32"
        calls[name] = prepared.bind(source, Blocked.empty(*spec.output_shape, kind=WEIGHTS_OF[made]))
    best = dict.fromkeys(calls, float("inf"))
    for _ in range(ROUNDS):
        for name, call in calls.items():
            call()
            start = time.perf_counter()
            call()
            best[name] = min(best[name], time.perf_counter() - start)
    _keep(spec, isa, min(best, key=lambda name: best[name]))
    return best


def main(words: list[str]) -> None:
    for word in words:
        seconds = tune(parse(word))
        print(word, ", ".join(f"{name} {1e6 * s:.0f} µs" for name, s in sorted(seconds.items(), key=lambda item: item[1])))


if __name__ == "__main__":
    main(sys.argv[1:])
