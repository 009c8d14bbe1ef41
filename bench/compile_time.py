"""The time to compile all kernels of a network, and to load them from the cache on disk.

    python -m bench.compile_time [--net resnet50] [--json]

Two new processes load the network's program for one device, as a worker does: the first with an empty cache folder, the
second with the first one's cache. As in a worker, other processes help to compile on the other cores.
Each loads it twice; the second time in the same process only packs weights, and is
subtracted.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

TARGET_S = {"cold": 6.0, "cached": 1.0}


def write_program(net: str, to: Path) -> None:
    """The program of a network for one device, as it is sent to a worker."""
    from fogconv.frontend.torch.export import export
    from fogconv.hardware.topology import Topology
    from fogconv.ir.program import encode
    from fogconv.lowering.lower import lower
    from fogconv.planning.plan_options import PlanOptions
    from fogconv.planning.planner import plan
    from fogconv.zoo.models import load_model

    model = load_model(net, weights="random")
    graph = export(model.module, model.example(), net)
    lowered = lower(graph, plan(graph, Topology.uniform(1, 1e11, 1e9, 1e-4), PlanOptions("local")))
    to.write_bytes(encode(lowered.programs[0]))


def load_twice(file: Path) -> dict[str, float]:
    """Seconds: importing, loading the program, and loading it once more."""
    start = time.perf_counter()
    import numpy as np

    from fogconv.cluster.compilers.helpers import Helpers
    from fogconv.cluster.executor.executable import Executable
    from fogconv.ir.program import decode

    imported = time.perf_counter()
    plan = decode(file.read_bytes())
    weights = {key: np.ones(shape, np.float32) for key, shape in plan.weights.items()}
    seconds = []
    for _ in range(2):
        begin = time.perf_counter()
        with Helpers(plan, 1, len(os.sched_getaffinity(0)) - 1).beside():
            Executable(plan, weights, threads=1, host=lambda *_: ())
        seconds.append(time.perf_counter() - begin)
    return {"import_s": imported - start, "first_s": seconds[0], "again_s": seconds[1], "kernels_s": seconds[0] - seconds[1]}


def measure(net: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        file, cache = Path(folder) / "program", Path(folder) / "cache"
        write_program(net, file)
        environment = {**os.environ, "FOGCONV_CACHE_DIR": str(cache), "OMP_NUM_THREADS": "1"}
        found: dict[str, Any] = {"net": net}
        for name in ("cold", "cached"):
            command = [sys.executable, "-m", "bench.compile_time", "--load", str(file)]
            output = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
            found[name] = json.loads(output)
        files = [*cache.glob("*.nbc"), *cache.glob("*.obj")]
        return {**found, "functions": len(files), "cache_bytes": sum(path.stat().st_size for path in files)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--net", default="resnet50")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--load", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.load:
        print(json.dumps(load_twice(options.load)))
        return
    result = measure(options.net)
    if options.json:
        print(json.dumps({**result, "target_s": TARGET_S}))
        return
    print(f"{result['net']}: {result['functions']} compiled functions, {result['cache_bytes'] / 1e6:.1f} MB in the cache")
    for name in ("cold", "cached"):
        row = result[name]
        print(
            f"{name:7s} kernels {row['kernels_s']:6.2f} s (at most {TARGET_S[name]:.0f}), packing {row['again_s']:.2f} s"
            f", imports {row['import_s']:.2f} s"
        )


if __name__ == "__main__":
    main()
