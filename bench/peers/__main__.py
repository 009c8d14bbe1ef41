"""Other runtimes on one device, in turns: A B C … A B C, each its own process, all on the same cores.

    python -m bench.peers --net resnet50 [--threads 2] [--pause 1] [--precision int8] [--rounds 15] [--json]

The extra `peers` has the runtimes; those that are not installed, or that can't read the model, are left out, and named.
LiteRT's files are written by litert_torch, which is installed apart. Weights and picture are the same and seeded; errors
are against torch in float64. ``ratio_to_best``: fogconv's time ÷ that of the fastest other runtime, the median over the
rounds. With ``--pause`` every inference comes after so many seconds of sleep. In 8 bits every runtime has its own
quantiser, on the same pictures (`bench.peers.model_files`), and its error is beside its time.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bench.contestants import MALLOC
from bench.peers import model_files
from bench.peers.model_files import FP32, INT8, PRECISIONS
from bench.peers.runtimes import RUNTIMES
from fogconv.errors import InputError

OURS = "fogconv"
EACH_TURN = 3
WARM_UP = 5
MOST_ERROR = {FP32: 1e-3, INT8: 1.0}
"""A runtime with a larger error computes something else, by precision; of the greatest number in the answer."""


class Process:
    """One runtime's process, on so many cores."""

    def __init__(self, stack: ExitStack, name: str, folder: Path, threads: int, precision: str) -> None:
        environment = {**os.environ, **MALLOC, "OMP_NUM_THREADS": str(threads), "NUMBA_NUM_THREADS": str(threads)}
        cores = sorted(os.sched_getaffinity(0))[-threads:]
        command = [sys.executable, "-m", "bench.peers.one_runtime", name, str(folder), str(threads), precision]
        log = stack.enter_context((folder / f"{name}.log").open("w"))
        self._process = stack.enter_context(
            subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=environment,
                preexec_fn=lambda: os.sched_setaffinity(0, cores),
            )
        )
        self._log = folder / f"{name}.log"
        stack.callback(self._process.terminate)

    def ask(self, question: str) -> Any:
        """The answer. Raises RuntimeError, with the last line that it printed, where the process ends."""
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(question + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            lines = self._log.read_text(errors="replace").strip().splitlines()
            raise RuntimeError(lines[-1][:200] if lines else "it ended and printed nothing")
        return json.loads(line)


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
                errors[name] = process.ask("check")
                process.ask(f"{WARM_UP} 0")
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
                found = process.ask(f"{1 if pause_s else EACH_TURN + 1} {pause_s}")
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--net", default="resnet50")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--pause", type=float, default=0.0, help="seconds of sleep before every inference")
    parser.add_argument("--precision", choices=PRECISIONS, default=FP32)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    try:
        found = measure(options.net, options.threads, options.pause, options.rounds, options.precision)
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
