"""Start-up without torch: from the command to the regions of text in a picture, against ONNX Runtime alone, in turns.

    fogconv models get ppocr-det
    python -m bench.start_text [--rounds 5] [--json]

`fogconv run ppocr-det --image page --draw OUT` on the master alone, with warm caches, and `bench.start_onnx`, which does the
same with ONNX Runtime, and fogconv's code before and after it. Each start is a separate process. The first answer is the
table's first line on stdout. Seconds and CPU seconds are medians, ratios those of pairs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

from bench.start import Start, first_line_with, middle

SIGN = "score corners"
TARGET = 2.0
"""Of ONNX Runtime's own time."""


def measure(rounds: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        out = str(Path(folder) / "out.png")
        alone = ["-m", "bench.start_onnx", out]
        ours = ["-m", "fogconv", "run", "ppocr-det", "--image", "page", "--draw", out, "--workers", "0", "--repeat", "1"]
        first_line_with(SIGN, ours)  # the caches
        pairs: list[tuple[Start, Start]] = []
        for _ in range(rounds):
            pairs.append((first_line_with(SIGN, alone), first_line_with(SIGN, ours)))
    return {
        "rounds": rounds,
        "target": TARGET,
        "onnxruntime": middle([theirs for theirs, _ in pairs]),
        "fogconv": middle([mine for _, mine in pairs]),
        "ratio": statistics.median(mine.seconds / theirs.seconds for theirs, mine in pairs),
        "cpu_ratio": statistics.median(mine.cpu_s / theirs.cpu_s for theirs, mine in pairs),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    found = measure(options.rounds)
    if options.json:
        print(json.dumps(found))
        return
    for name in ("onnxruntime", "fogconv"):
        print(f"{name:12}{found[name]['seconds']:6.2f} s, {found[name]['cpu_s']:5.2f} s of CPU")
    print(f"ratio       {found['ratio']:6.2f}, of CPU {found['cpu_ratio']:.2f}; at most {found['target']:g} is the aim")


if __name__ == "__main__":
    main()
