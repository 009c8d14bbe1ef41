"""The process of one runtime: opens models, then runs them on request.

    python -m bench.peers.one_runtime NAME THREADS PRECISION

Answers every line of standard input with a line of JSON: "open FOLDER" with the largest error of the model in that folder,
"wall FOLDER N PAUSE" with the seconds of N of its inferences, each after a pause of so many seconds, "processor FOLDER N
PAUSE" with the seconds of all of this process's threads instead, "close", which forgets all models, with null.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from pathlib import Path

import numpy as np

from bench.peers import model_files
from bench.peers.runtimes import RUNTIMES, Run
from fogconv.ir.arrays import Array

CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}


def main(name: str, threads: int, precision: str) -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a runtime prints is no answer
    runtime = RUNTIMES[name]
    models: dict[str, tuple[Run, Array]] = {}
    for line in sys.stdin:
        match line.split():
            case ["open", folder]:
                x, exact = (np.load(Path(folder) / file) for file in (model_files.INPUT, model_files.ANSWER))
                run = runtime.open(Path(folder) / runtime.forms[precision], threads)
                models[folder] = run, x
                answer: object = float(np.abs(run(x).reshape(exact.shape) - exact).max() / np.abs(exact).max())
            case [clock, folder, count, pause_s]:
                answer = _times(*models[folder], clock, int(count), float(pause_s))
            case _:
                models.clear()
                gc.collect()
                answer = None
        print(json.dumps(answer), file=answers, flush=True)


def _times(run: Run, x: Array, clock: str, count: int, pause_s: float) -> list[float]:
    now, seconds = CLOCKS[clock], []
    for _ in range(count):
        time.sleep(pause_s)
        begin = now()
        run(x)
        seconds.append(now() - begin)
    return seconds


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
