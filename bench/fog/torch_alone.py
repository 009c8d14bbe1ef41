"""The baseline, run inside one node: torch on one thread, in the best of its memory formats for this model.

    python -m bench.fog.torch_alone FOLDER NET

The formats are compared before the quota is applied; the best one is used.
"""

from __future__ import annotations

import copy
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.fog.conversation import Facts, NodeEnd
from bench.fog.workload import subject

TRIES = 5


def variants(model: torch.nn.Module, x: torch.Tensor) -> dict[str, Callable[[], Any]]:
    """torch's ways to run the model, as calls."""
    last = copy.deepcopy(model).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    y = x.to(memory_format=torch.channels_last)
    return {"nchw": lambda: model(x), "channels_last": lambda: last(y)}


def main(folder: Path, net: str) -> None:
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    zoo, image = subject(net)
    calls = variants(zoo.module, torch.from_numpy(image))
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(TRIES):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - start)
    full_speed = {name: statistics.median(seconds[1:]) for name, seconds in times.items()}
    best = min(full_speed, key=lambda name: full_speed[name])
    for name in [name for name in calls if name != best]:
        del calls[name]

    def run(repeats: int) -> Facts:
        stamps = [time.perf_counter()]
        for _ in range(repeats):
            calls[best]()
            stamps.append(time.perf_counter())
        return {"seconds": np.diff(stamps).tolist()}

    NodeEnd(folder).serve({"variant": best, "full_speed_s": full_speed}, run)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
