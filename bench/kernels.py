"""Our convolutions against torch's: `python -m bench.kernels --net resnet50 [--json] [--shards] [--errors]`.

One thread, batch 1, fp32. Every layer's contestants run interleaved in this process, each warmed by an untimed call
before the timed one. A round's ratio is torch's best variant of the layer ÷ ours; the layer's ratio is the median over the
rounds. The geometric mean goes over the distinct layers, the total counts each as often as it occurs.

``--quantile 0`` takes each contestant's fastest round instead, for machines with noisy neighbours.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from bench.contestants import Call, Contest, with_fair_malloc
from bench.layers import conv_specs, label
from fogconv.geometry import ConvSpec
from fogconv.kernels import prepare_conv2d
from fogconv.kernels.blocked import Blocked

NETS = ("resnet50", "vgg16", "inception_v3", "mobilenet_v2")

TARGET = {"resnet50": 1.2, "vgg16": 2.3, "inception_v3": 1.4, "mobilenet_v2": 1.15}

SAMPLE_S = 2e-4
"""Short calls are repeated to fill a sample of this length."""

Times = dict[str, list[float]]


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


def compare(times: Times, ours: str, others: list[str], fastest: bool) -> dict[str, Any]:
    """Our time and the best other's, and the paired ratios."""
    middle = min if fastest else statistics.median
    best = min(others, key=lambda name: middle(times[name]))
    ratios = [a / b for a, b in zip(times[best], times[ours], strict=True)]
    torch_s, ours_s = middle(times[best]), middle(times[ours])
    return {
        "torch": best,
        "torch_s": torch_s,
        "ours_s": ours_s,
        "ratio": torch_s / ours_s if fastest else statistics.median(ratios),
        "ratio_min": min(ratios),
    }


def bench_layer(spec: ConvSpec, budget_s: float, fastest: bool, errors: bool) -> dict[str, Any]:
    with torch.inference_mode():
        contest = Contest(spec)
        times = interleaved({**contest.torch, "ours": contest.ours, "ours_nchw": contest.ours_nchw}, budget_s)
    blocked = compare(times, "ours", list(contest.torch), fastest)
    nchw = compare(times, "ours_nchw", list(contest.torch_nchw), fastest)
    return {
        "layer": label(spec),
        "algorithm": contest.algorithm,
        **blocked,
        "gflop_per_s": 2e-9 * spec.macs / blocked["ours_s"],
        "ratio_nchw": nchw["ratio"],
        **({"error": contest.error()} if errors else {}),
    }


def geomean(values: list[float]) -> float:
    return math.exp(sum(math.log(value) for value in values) / len(values))


def bench_net(net: str, budget_s: float, fastest: bool, errors: bool, only: str = "") -> dict[str, Any]:
    """The comparison for a whole network: the JSON of the command line."""
    layers = []
    for spec, count in conv_specs(net).items():
        if only in label(spec):
            layers.append({**bench_layer(spec, budget_s, fastest, errors), "count": count})
    worst = min(layers, key=lambda layer: layer["ratio"])
    total = {side: sum(layer[side] * layer["count"] for layer in layers) for side in ("torch_s", "ours_s")}
    return {
        "net": net,
        "geomean": geomean([layer["ratio"] for layer in layers]),
        "total_ratio": total["torch_s"] / total["ours_s"],
        "geomean_nchw": geomean([layer["ratio_nchw"] for layer in layers]),
        "worst": {"layer": worst["layer"], "ratio": worst["ratio"]},
        "target": TARGET.get(net),
        "torch_s": total["torch_s"],
        "ours_s": total["ours_s"],
        **({"worst_error": max(layer["error"] for layer in layers)} if errors else {}),
        "layers": layers,
    }


def bench_shards(spec: ConvSpec, budget_s: float) -> list[dict[str, float]]:
    """1/n of the output channels, n = 1 … 8: the time of the largest shard, and how near n of them come to n-fold speed."""
    random = np.random.default_rng(0)
    weight = random.standard_normal(spec.weight_shape, dtype=np.float32)
    calls: dict[str, Call] = {}
    for n in range(1, 9):
        channels = -(-spec.out_channels // n)
        part = ConvSpec(
            spec.in_channels, channels, spec.height, spec.width, spec.kernel, spec.stride, spec.padding, spec.dilation
        )
        prepared = prepare_conv2d(part, weight[:channels])
        calls[str(n)] = prepared.bind(
            Blocked.empty(*part.input_shape, prepared.wanted_margin), Blocked.empty(*part.output_shape)
        )
    times = {name: min(seconds) for name, seconds in interleaved(calls, budget_s).items()}
    return [{"n": n, "shard_s": times[str(n)], "efficiency": times["1"] / (n * times[str(n)])} for n in range(1, 9)]


def print_net(result: dict[str, Any]) -> None:
    print(f"{result['net']}: one thread, batch 1, fp32; ratio = torch's best ÷ ours")
    for layer in result["layers"]:
        error = f" error {layer['error']:.1e}" if "error" in layer else ""
        print(
            f"  {layer['layer']:34s} ×{layer['count']:<2d} {layer['algorithm']:10s} {1e6 * layer['ours_s']:8.0f} µs "
            f"{layer['gflop_per_s']:5.0f} GFLOP/s  torch {layer['torch']:23s} {1e6 * layer['torch_s']:8.0f} µs  "
            f"ratio {layer['ratio']:.2f} (least {layer['ratio_min']:.2f}, NCHW {layer['ratio_nchw']:.2f}){error}"
        )
    target = f" (target {result['target']})" if result["target"] else ""
    print(
        f"geometric mean over {len(result['layers'])} layers {result['geomean']:.3f}{target}, with NCHW conversions "
        f"{result['geomean_nchw']:.3f}"
    )
    print(f"all convolutions {1e3 * result['torch_s']:.1f} → {1e3 * result['ours_s']:.1f} ms: {result['total_ratio']:.3f}")
    print(f"worst layer {result['worst']['layer']}: {result['worst']['ratio']:.2f}")
    if "worst_error" in result:
        print(f"worst error against float64 {result['worst_error']:.1e} of the largest value")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--net", default="resnet50", help=f"one of {', '.join(NETS)}, or any classification model of torchvision"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--seconds", type=float, default=0.5, help="budget per layer")
    parser.add_argument("--only", default="", help="only layers whose name has this in it")
    parser.add_argument("--quantile", type=float, choices=(0.0, 0.5), default=0.5, help="0: fastest rounds, 0.5: medians")
    parser.add_argument("--errors", action="store_true", help="compare with float64 as well (slow)")
    parser.add_argument("--shards", action="store_true", help="efficiency of 1/n shards instead")
    options = parser.parse_args()
    with_fair_malloc()
    torch.set_num_threads(1)
    if options.shards:
        for spec in conv_specs(options.net):
            if options.only in label(spec) and spec.groups == 1:
                row = bench_shards(spec, options.seconds)
                print(f"{label(spec):34s}", " ".join(f"1/{r['n']}: {r['efficiency']:.2f}" for r in row), flush=True)
        return
    result = bench_net(options.net, options.seconds, options.quantile == 0, options.errors, options.only)
    if options.json:
        print(json.dumps(result))
    else:
        print_net(result)


if __name__ == "__main__":
    main()
