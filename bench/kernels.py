"""Our convolutions against torch's: `python -m bench.kernels --net resnet50 [--json] [--shards] [--errors] [--threads 2]`.

One thread, batch 1, fp32. Every layer's contestants run interleaved in this process, each warmed by an untimed call
before the timed one. A round's ratio is torch's best variant of the layer ÷ ours; the layer's ratio is the median over the
rounds. The geometric mean goes over the distinct layers, the total counts each as often as it occurs.

``--shards`` times 1/n of each layer's output channels: n = 8 at 0.90 means that eight such shards are 7.2 times as fast as
one device. On AVX-512 output channels cost as many as the next multiple of 4 (13 to 15 of 16: of 16; few input channels:
of 16), on AVX2 of 8, on NEON of 4. Zen 4, without quads (`fogconv.kernels.codegen.quads`) and with them: 64 channels of
1×1 at
56×56 1/3 0.66 → 0.87, 1/5 0.80, 1/6 0.67 → 0.81, 1/7 0.57 → 0.70, 1/8 0.50 → 0.90; 128 channels of 1×1 at 28×28 1/5 0.80 →
0.91, 1/6 0.67 → 0.89, 1/7 0.57 → 0.85. Winograd's shards each pay for the whole input's transform: 64 channels of 3×3 at
56×56 1/4 0.84 → 0.87, 1/7 0.48 → 0.56, 1/8 0.42 → 0.62.

``--threads 2`` compares our kernels on one thread with themselves on two, instead.

``--quantile 0`` takes each contestant's fastest round instead, for machines with noisy neighbours.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from typing import Any

import torch

from bench.contestants import Contest, with_fair_malloc
from bench.layers import conv_specs, label
from bench.scaling import Times, bench_shards, bench_threads, interleaved, scaling_of
from fogconv.ir.geometry import ConvSpec

NETS = ("resnet50", "vgg16", "inception_v3", "mobilenet_v2")

TARGET = {"resnet50": 1.2, "vgg16": 2.3, "inception_v3": 1.4, "mobilenet_v2": 1.15}


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


def print_scaling(net: str, threads: int, budget_s: float, only: str, as_json: bool) -> None:
    layers = []
    for spec, count in conv_specs(net).items():
        if only in label(spec):
            layers.append({**bench_threads(spec, threads, budget_s), "count": count})
            row = layers[-1]
            if not as_json:
                print(
                    f"{row['layer']:34s} {row['algorithm']:10s} {1e6 * row['one_s']:7.0f} → {1e6 * row['several_s']:7.0f} µs"
                    f" ratio {row['ratio']:.2f}",
                    flush=True,
                )
    kinds = scaling_of(layers)
    if as_json:
        print(json.dumps({"net": net, "threads": threads, "kinds": kinds, "layers": layers}))
        return
    for kind, found in kinds.items():
        target = f" (target {found['target']} on two)" if "target" in found else ""
        print(
            f"{kind}: geometric mean over {found['layers']:.0f} layers {found['geomean']:.2f}{target}, summed "
            f"{found['total_ratio']:.2f}, worst {found['worst']:.2f}"
        )


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
    parser.add_argument("--threads", type=int, help="how our kernels scale from one thread to so many, instead")
    options = parser.parse_args()
    with_fair_malloc()
    torch.set_num_threads(1)
    if options.shards:
        for spec in conv_specs(options.net):
            if options.only in label(spec) and spec.groups == 1:
                row = bench_shards(spec, options.seconds)
                print(f"{label(spec):34s}", " ".join(f"1/{r['n']}: {r['efficiency']:.2f}" for r in row), flush=True)
        return
    if options.threads:
        print_scaling(options.net, options.threads, options.seconds, options.only, options.json)
        return
    result = bench_net(options.net, options.seconds, options.quantile == 0, options.errors, options.only)
    if options.json:
        print(json.dumps(result))
    else:
        print_net(result)


if __name__ == "__main__":
    main()
