"""The process of one runtime: opens the model, then runs it on request.

    python -m bench.peers.one_runtime NAME FOLDER THREADS PRECISION

Answers every line of standard input with a line of JSON: "check" with the largest error, "N PAUSE" with the seconds of N
inferences, each after a pause of so many seconds.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import numpy as np

from bench.peers import model_files
from bench.peers.runtimes import RUNTIMES


def main(name: str, folder: Path, threads: int, precision: str) -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a runtime prints is no answer
    x, exact = np.load(folder / model_files.INPUT), np.load(folder / model_files.ANSWER)
    runtime = RUNTIMES[name]
    run = runtime.open(folder / runtime.forms[precision], threads)
    for line in sys.stdin:
        if line.strip() == "check":
            error = np.abs(run(x).reshape(exact.shape) - exact).max() / np.abs(exact).max()
            print(json.dumps(float(error)), file=answers, flush=True)
            continue
        count, pause_s = line.split()
        seconds = []
        for _ in range(int(count)):
            time.sleep(float(pause_s))
            begin = time.perf_counter()
            run(x)
            seconds.append(time.perf_counter() - begin)
        print(json.dumps(seconds), file=answers, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
