"""Other runtimes on one device, in turns: A B C … A B C, each its own process, all on the same cores.

    python -m bench.peers --net resnet50 [--threads 2] [--pause 1] [--precision int8] [--rounds 15] [--json]
    python -m bench.peers --convs [--net resnet50] [--only 3x3s2] [--runtimes fogconv torch] [--keep FILE] [--quick] [--json]

The extra `peers` has the runtimes; those that are not installed, or that can't read the model, are left out, and named.
LiteRT's files are written by litert_torch, which is installed apart. Weights and picture are the same and seeded; errors
are against torch in float64. ``ratio_to_best``: fogconv's time ÷ that of the fastest other runtime, the median over the
rounds. With ``--pause`` every inference comes after so many seconds of sleep. In 8 bits every runtime has its own
quantiser, on the same pictures (`bench.peers.model_files`), and its error is beside its time. With ``--convs`` every
distinct conv of five networks, or of one, is compared by itself (`bench.peers.convs`).
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bench.peers import convs, model_files
from bench.peers.model_files import FP32, INT8, PRECISIONS
from bench.peers.process import Process
from bench.peers.runtimes import RUNTIMES
from fogconv.errors import InputError

NETS = ("resnet50", "vgg16", "inception_v3", "mobilenet_v2", "efficientnet_lite0")
OURS = "fogconv"
EACH_TURN = 3
WARM_UP = 5
MOST_ERROR = {FP32: 1e-3, INT8: 1.0}
"""A runtime with a larger error computes something else, by precision; of the greatest number in the answer."""


def measure(net: str, threads: int, pause_s: float, rounds: int, precision: str = FP32) -> dict[str, Any]:
    """One row: see the module."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fogconv-peers-")))
        left_out: dict[str, str] = {}
        unwritten = model_files.written(net, folder, precision)
        processes: dict[str, Process] = {}
        errors: dict[str, float] = {}
        for name, runtime in RUNTIMES.items():
            if importlib.util.find_spec(runtime.module) is None:
                left_out[name] = f"{runtime.module} is not installed"
                continue
            if precision not in runtime.forms:
                left_out[name] = f"no file in {precision} is written for it"
                continue
            if runtime.forms[precision] in unwritten:
                left_out[name] = unwritten[runtime.forms[precision]]
                continue
            process = Process(stack, name, folder, threads, precision)
            try:
                errors[name] = process.opened(folder)
                process.seconds(folder, WARM_UP)
            except RuntimeError as error:
                left_out[name] = str(error)
                continue
            if errors[name] > MOST_ERROR[precision]:
                left_out[name] = f"its error is {errors.pop(name):.2g}"
                continue
            processes[name] = process
        turns: dict[str, list[float]] = {name: [] for name in processes}
        for _ in range(rounds):
            for name, process in processes.items():
                # Back to back the first of a turn finds cold caches, and does not count.
                found = process.seconds(folder, 1 if pause_s else EACH_TURN + 1, pause_s)
                turns[name].append(statistics.median(found if pause_s else found[1:]))
    return {
        "net": net,
        "threads": threads,
        "precision": precision,
        "pause_s": pause_s,
        "times_ms": {name: 1e3 * statistics.median(seconds) for name, seconds in turns.items()},
        "ratio_to_best": ratio_to_best(turns),
        "max_rel_error": errors,
        "left_out": left_out,
    }


def ratio_to_best(turns: Mapping[str, Sequence[float]]) -> float | None:
    """From seconds by runtime, a figure per round: rounds are compared, for the machine's speed changes between them."""
    ours = turns.get(OURS, ())
    ratios = [
        statistics.median(mine / other for mine, other in zip(ours, theirs, strict=True))
        for name, theirs in turns.items()
        if name != OURS and ours
    ]
    return max(ratios, default=None)


def print_convs(options: argparse.Namespace) -> None:
    """Raises InputError for an unknown net."""
    nets = [options.net] if options.net else list(NETS)
    cases = convs.chosen(nets, options.only, 8 if options.quick else 1)
    rounds = options.rounds or (3 if options.quick else 9)
    found = []
    for counts, row in zip(cases.values(), convs.rows(cases, options.runtimes, rounds, options.keep), strict=True):
        found.append({**row, "nets": dict(counts)})
        if not options.json:
            print(convs.line(row), flush=True)
    worst = convs.worst(found)
    if options.json:
        print(json.dumps({"nets": nets, "rounds": rounds, "convs": found, "worst": worst}))
    elif worst:
        print(f"worst of {len(found)}: {worst['conv']}, {worst['ratio_to_best']:.2f} times what the fastest other takes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--net", help="one network (resnet50); with --convs, the convs of this one only")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--pause", type=float, default=0.0, help="seconds of sleep before every inference")
    parser.add_argument("--precision", choices=PRECISIONS, default=FP32)
    parser.add_argument("--rounds", type=int, help="15; with --convs 9")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--convs", action="store_true", help="every distinct conv, on one thread in fp32, instead")
    parser.add_argument("--only", default="", help="with --convs: those whose name has this in it")
    parser.add_argument("--runtimes", nargs="+", choices=RUNTIMES, default=list(RUNTIMES), help="with --convs: these only")
    parser.add_argument("--keep", type=Path, help="with --convs: a file of rows; those that it has are not measured again")
    parser.add_argument("--quick", action="store_true", help="with --convs: every eighth, in three rounds")
    options = parser.parse_args()
    try:
        if options.convs:
            print_convs(options)
            return
        net, rounds = options.net or "resnet50", options.rounds or 15
        found = measure(net, options.threads, options.pause, rounds, options.precision)
    except InputError as error:
        print(f"bench.peers: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    if options.json:
        print(json.dumps(found))
        return
    for name, value in sorted(found["times_ms"].items(), key=lambda pair: pair[1]):
        print(f"{name:12}{value:9.2f} ms   error {found['max_rel_error'][name]:.1e}")
    for name, why in found["left_out"].items():
        print(f"{name:12}  left out: {why}")
    ratio = found["ratio_to_best"]
    print("no other runtime ran" if ratio is None else f"fogconv takes {ratio:.2f} times what the fastest other takes")


if __name__ == "__main__":
    main()
