"""The baseline, run inside one node on one thread: the model in the fastest form of its framework, or of several.

    python -m bench.fog.alone FOLDER JOB        JOB is an AloneJob as JSON

The forms are compared before the quota is applied; the best one is used.
"""

from __future__ import annotations

import copy
import io
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch

from bench.fog.conversation import Facts, NodeEnd
from bench.fog.job import AloneJob
from bench.fog.workload import Size, Subject
from fogconv.frontend.onnx.runtime import session_of
from fogconv.zoo.models import load_model

TRIES = 5
OPSET = 17
ONNX_RUNTIME = "onnxruntime"
Call = Callable[[], Any]


def forms(job: AloneJob) -> dict[str, Call]:
    """The ways to run the model, as calls."""
    it = Subject(job.net, job.size)
    if it.framework != "torch":
        return {ONNX_RUNTIME: lambda: it.run_alone(it.inputs)}
    faster = job.baseline == "faster" or (job.baseline == "usual" and it.task != "classify")
    return in_torch(job.net, job.size, it.image, exported=faster)


def in_torch(net: str, size: Size | None, image: Any, exported: bool) -> dict[str, Call]:
    """A model of torch; ``exported``: in ONNX Runtime as well."""
    model: torch.nn.Module = load_model(net, weights="random", size=size).module
    x = torch.from_numpy(image)
    last = copy.deepcopy(model).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    y = x.to(memory_format=torch.channels_last)
    calls: dict[str, Call] = {"torch": lambda: model(x), "torch, channels_last": lambda: last(y)}
    if exported:
        file = io.BytesIO()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(model, (x,), file, dynamo=False, opset_version=OPSET)
        session = session_of(file.getvalue(), threads=1)
        name = session.get_inputs()[0].name
        calls[ONNX_RUNTIME] = lambda: session.run(None, {name: image})
    return calls


def main(folder: Path, job: AloneJob) -> None:
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    calls = forms(job)
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
    main(Path(sys.argv[1]), msgspec.json.decode(sys.argv[2], type=AloneJob))
