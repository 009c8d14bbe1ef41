"""Whole networks on one device: fogconv's engine without workers against torch, in turns in this process.

    python -m bench.whole [--nets resnet50 vgg16] [--json] [--seconds 20] [--no-compile]

One thread on one core, batch 1, fp32, the same malloc settings for both. torch in the fastest of: NCHW, channels_last,
with batch norms folded into the convolutions, and torch.compile with frozen weights, where that works. A ratio above 1
means that ours is faster; it is the median over rounds in which all run one after the other.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from typing import Any

import numpy as np
import torch

from bench.contestants import Call, with_fair_malloc
from bench.scaling import interleaved
from fogconv.cluster.connect import connect
from fogconv.frontend.torch.export import export
from fogconv.hardware.topology import Topology
from fogconv.planning.plan_options import PlanOptions
from fogconv.runtime.engine import Engine
from fogconv.runtime.run_options import RunOptions
from fogconv.zoo.models import load_model

NETS = ("resnet50", "vgg16", "inception_v3", "mobilenet_v2")
TARGET = {"resnet50": 1.15, "vgg16": 2.0}


def torch_calls(module: torch.nn.Module, x: torch.Tensor, compiled: bool) -> tuple[dict[str, Call], dict[str, str]]:
    """torch's ways by name, and the reasons why others don't work here."""
    from torch.fx.experimental.optimization import fuse

    x_last = x.contiguous(memory_format=torch.channels_last)
    calls: dict[str, Call] = {}
    failed: dict[str, str] = {}

    def fold() -> Call:
        folded = fuse(module).to(memory_format=torch.channels_last)
        return lambda: folded(x_last)

    def compile_() -> Call:
        import torch._inductor.config as inductor

        inductor.freezing = True
        fast = torch.compile(module)
        return lambda: fast(x)

    def last() -> Call:
        import copy

        moved = copy.deepcopy(module).to(memory_format=torch.channels_last)
        return lambda: moved(x_last)

    ways = {"nchw": lambda: lambda: module(x), "channels_last": last, "folded": fold}
    if compiled:
        ways["compile"] = compile_
    expected = module(x)
    for name, make in ways.items():
        try:
            call = make()
            found: Any = call()
            if not torch.allclose(found, expected, atol=1e-3 * float(expected.abs().max())):
                raise RuntimeError("its result differs")
            calls[name] = call
        except Exception as error:  # torch.compile fails in many ways where there is no working compiler
            failed[name] = f"{type(error).__name__}: {str(error).strip().splitlines()[0][:120]}"
    return calls, failed


def bench_net(name: str, budget_s: float, compiled: bool) -> dict[str, Any]:
    model = load_model(name, weights="random")
    random = torch.Generator().manual_seed(0)
    x = torch.randn(model.example().shape, generator=random)
    with torch.inference_mode(), connect("inproc://0", threads=1) as session:
        graph = export(model.module, x, name)
        engine = Engine(graph, session, Topology.uniform(1, 1e11, 1e9, 1e-4), PlanOptions("local"), RunOptions(adapt=False))
        image = x.numpy()
        calls, failed = torch_calls(model.module, x, compiled)
        expected = model.module(x).numpy()
        error = float(np.abs(engine.run(image).output - expected).max() / np.abs(expected).max())
        times = interleaved({**calls, "fogconv": lambda: engine.run(image)}, budget_s)
    seconds = {way: statistics.median(values) for way, values in times.items()}
    best = min(calls, key=lambda way: seconds[way])
    return {
        "net": name,
        "ratio": statistics.median(a / b for a, b in zip(times[best], times["fogconv"], strict=True)),
        "target": TARGET.get(name),
        "torch": best,
        "seconds": seconds,
        "failed": failed,
        "difference": error,
        "rounds": len(times["fogconv"]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nets", nargs="*", default=list(NETS))
    parser.add_argument("--seconds", type=float, default=20.0, help="budget per net")
    parser.add_argument("--no-compile", action="store_true", help="skip torch.compile, which takes minutes")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    with_fair_malloc()
    # The engine gives the master's kernels all cores that the process may use.
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    results = []
    for net in options.nets:
        result = bench_net(net, options.seconds, not options.no_compile)
        results.append(result)
        if not options.json:
            milliseconds = ", ".join(
                f"{way} {1e3 * s:.1f}" for way, s in sorted(result["seconds"].items(), key=lambda i: i[1])
            )
            target = f" (target {result['target']})" if result["target"] else ""
            print(f"{net}: {result['ratio']:.2f}{target} against torch's {result['torch']}; ms: {milliseconds}", flush=True)
            for way, why in result["failed"].items():
                print(f"  torch's {way} does not work here: {why}", file=sys.stderr)
    if options.json:
        print(json.dumps({"nets": results}))


if __name__ == "__main__":
    main()
