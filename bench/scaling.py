"""One layer in parts, and on several threads: what bench.kernels prints with --shards and with --threads."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from bench.contestants import Call
from bench.layers import label
from fogconv.ir.geometry import ConvSpec
from fogconv.kernels import prepare_conv2d
from fogconv.kernels.maps.blocked import Blocked

SAMPLE_S = 2e-4
"""Short calls are repeated to fill a sample of this length."""

Times = dict[str, list[float]]

SCALING_TARGET = {"direct": 1.8, "winograd": 1.5}


def interleaved(calls: Mapping[str, Call], budget_s: float, least_rounds: int = 7) -> Times:
    """Seconds per call of every contestant, round by round."""
    repeats = {}
    for name, call in calls.items():
        call()
        start = time.perf_counter()
        call()
        repeats[name] = max(1, int(SAMPLE_S / max(1e-7, time.perf_counter() - start)))
    times: Times = {name: [] for name in calls}
    begin = time.perf_counter()
    while len(times[next(iter(calls))]) < least_rounds or time.perf_counter() - begin < budget_s:
        for name, call in calls.items():
            call()
            start = time.perf_counter()
            for _ in range(repeats[name]):
                call()
            times[name].append((time.perf_counter() - start) / repeats[name])
    return times


def bound_layer(spec: ConvSpec, threads: int = 1) -> tuple[str, Call]:
    """The algorithm, and a call on random weights and an input of zeros."""
    weight = np.random.default_rng(0).standard_normal(spec.weight_shape, dtype=np.float32)
    prepared = prepare_conv2d(spec, weight, threads=threads)
    return prepared.algorithm, prepared.bind(prepared.empty_input(), Blocked.empty(*spec.output_shape))


def bench_shards(spec: ConvSpec, budget_s: float) -> list[dict[str, float]]:
    """1/n of the output channels, n = 1 … 8: the time of the largest shard, and the share of n-fold speed that n of them
    reach."""
    calls: dict[str, Call] = {}
    for n in range(1, 9):
        shape = (spec.in_channels, -(-spec.out_channels // n), spec.height, spec.width)
        _, calls[str(n)] = bound_layer(ConvSpec(*shape, spec.kernel, spec.stride, spec.padding, spec.dilation))
    times = {name: min(seconds) for name, seconds in interleaved(calls, budget_s).items()}
    return [{"n": n, "shard_s": times[str(n)], "efficiency": times["1"] / (n * times[str(n)])} for n in range(1, 9)]


def bench_threads(spec: ConvSpec, threads: int, budget_s: float) -> dict[str, Any]:
    """One thread against several, in turns; the median of paired ratios."""
    (algorithm, one), (_, several) = bound_layer(spec), bound_layer(spec, threads)
    times = interleaved({"one": one, "several": several}, budget_s)
    ratios = [a / b for a, b in zip(times["one"], times["several"], strict=True)]
    seconds = {name: statistics.median(values) for name, values in times.items()}
    return {
        "layer": label(spec),
        "algorithm": algorithm,
        "one_s": seconds["one"],
        "several_s": seconds["several"],
        "ratio": statistics.median(ratios),
    }


def scaling_of(layers: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """By kind of kernel: the geometric mean over its layers, the ratio of summed times, and the target."""
    found = {}
    for kind in ("direct", "winograd", "depthwise", "linear"):
        rows = [layer for layer in layers if layer["algorithm"].startswith(kind)]
        if rows:
            found[kind] = {
                "layers": len(rows),
                "geomean": math.exp(statistics.fmean(math.log(row["ratio"]) for row in rows)),
                "total_ratio": sum(row["one_s"] for row in rows) / sum(row["several_s"] for row in rows),
                "worst": min(row["ratio"] for row in rows),
                **({"target": SCALING_TARGET[kind]} if kind in SCALING_TARGET else {}),
            }
    return found
