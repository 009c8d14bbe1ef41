"""Job: everything that one ``fogconv run`` does on the master, and what it found."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, cast

import numpy as np
from numpy.typing import NDArray

from fogconv.choices import Choices
from fogconv.cli.console import loading_bar, print_report, print_stream
from fogconv.cli.interrupt import Watch
from fogconv.cli.ranks import closed_quietly, last_word
from fogconv.cluster.connect import connect
from fogconv.cluster.mpi import launched
from fogconv.cluster.service import cores
from fogconv.cluster.session import Session
from fogconv.engine import Engine, Inference
from fogconv.errors import InputError, ModelError
from fogconv.guard import Protection
from fogconv.plan import load_plan
from fogconv.planner import SCHEMES, lossless_wire
from fogconv.prediction import layer_terms
from fogconv.program import Wire
from fogconv.report import LayerReport, layer_reports, trace_events
from fogconv.trigger import Trigger

if TYPE_CHECKING:
    from fogconv.layers import LayerGraph
    from fogconv.topology import Topology
    from fogconv.zoo import ZooModel

WIRES = ("fp32", "fp16", "bf16", "lossless", "zeros", "lz4", "zstd")
"""What --wire takes: `program.Wire`, and "lossless" for the best of those that lose nothing."""


def wire_of(name: str, graph: LayerGraph, topology: Topology, scheme: str) -> Wire:
    """The Wire that a name of WIRES stands for on these links."""
    if name != "lossless":
        return cast("Wire", name)
    installed: list[Wire] = [library for library, module in _COMPRESSORS.items() if find_spec(module) is not None]
    return lossless_wire(graph, topology, scheme, ["fp32", "zeros", *installed])


_COMPRESSORS: dict[Wire, str] = {"lz4": "lz4", "zstd": "zstandard"}


@dataclass(frozen=True, kw_only=True)
class Job:
    """The command line's choices; see `fogconv.cli.run.run`."""

    model: str
    images: tuple[str, ...] = ("coffee",)
    cluster: str = ""
    workers: int = -1
    scheme: str = "auto"
    trigger: str = "both"
    threshold: float = 1.0
    master_computes: bool = True
    even: bool = False
    wire: str = "fp32"
    plan: Path | None = None
    profile: Path | None = None
    weights: str = "pretrained"
    size: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    labels: Path | None = None
    repeat: int = 5
    stream: int = 0
    compare: bool = False
    threads: int = 0
    timeout_s: float = 60.0
    heartbeat_s: float = 1.0
    verify: bool = False
    redundancy: int = 0
    patience: float = 0.0
    adapt: bool = True
    rehearse: bool = False
    keys: Path | None = None
    insecure: bool = False


@dataclass(frozen=True)
class Shown:
    """Where and how results are shown. ``alone``: mpirun started one rank only."""

    json: bool = False
    trace: Path | None = None
    alone: bool = False
    out: TextIO = field(default_factory=lambda: sys.stdout)


@dataclass(frozen=True)
class Guess:
    label: str
    index: int
    probability: float


@dataclass(frozen=True)
class Result:
    """What a job found. Latencies are medians of warm runs, in seconds, without set-up."""

    job: Job
    model: str
    weights: str
    cluster: str
    workers: int
    scheme: str
    top5: tuple[tuple[Guess, ...], ...]
    latency_s: float
    predicted_s: float | None
    torch_latency_s: float | None
    max_abs_error: float | None
    max_abs_reference: float | None
    layers: tuple[LayerReport, ...]
    events: tuple[str, ...]
    frames_per_s: float | None = None

    def as_json(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "weights": self.weights,
            "input": list(self.job.images),
            "cluster": self.cluster,
            "workers": self.workers,
            "scheme": self.scheme,
            "top5": [vars(guess) for guess in self.top5[0]],
            "top5_all": [[vars(guess) for guess in guesses] for guesses in self.top5],
            "latency_s": self.latency_s,
            "predicted_s": self.predicted_s,
            "torch_latency_s": self.torch_latency_s,
            "max_abs_error": self.max_abs_error,
            "max_abs_reference": self.max_abs_reference,
            "frames_per_s": self.frames_per_s,
            "events": list(self.events),
            "layers": [layer.as_json() for layer in self.layers],
        }


def run_job(job: Job, shown: Shown) -> Result:
    """Raises FogconvError for whatever can't be done; the cluster is left ready for the next master."""
    _check(job)
    with _opened(job) as session:
        model, x = _prepared(job)
        with loading_bar(shown.json) as bar:
            engine = _engine(job, session, model, x, bar)
        result = _measure(job, shown, session, engine, model, x)
        engine.close()
    if shown.json:
        import msgspec

        shown.out.write(msgspec.json.encode(result.as_json()).decode() + "\n")
    else:
        print_report(result, alone=shown.alone, out=shown.out)
        if result.frames_per_s is not None:
            print_stream(result.frames_per_s, job.stream, out=shown.out)
    return result


def _check(job: Job) -> None:
    """What can be told to be wrong before anything is loaded."""
    if job.wire not in WIRES:
        raise InputError(f"--wire {job.wire!r}: it is one of {', '.join(WIRES)}")
    if job.scheme not in SCHEMES:
        raise InputError(f"--scheme {job.scheme!r}: it is one of {', '.join(SCHEMES)}")
    Trigger.parse(job.trigger)
    if not job.threshold >= 0:
        raise InputError(f"--threshold {job.threshold:g}: it is 0 or more; 0 distributes every conv, inf none")


@contextmanager
def _opened(job: Job) -> Iterator[Session]:
    """The session that the job names. Under mpirun it is opened before anything else can fail, so that the ranks end."""
    launch = launched()
    if job.cluster:
        where: str = job.cluster
    elif launch is not None and launch.size > 1:
        where = "mpi://"
    else:
        spare = min(4, max(0, cores() - 1)) if job.workers < 0 else job.workers
        where = f"inproc://{0 if launch is not None else spare}"
    with last_word(where) as word:
        session = connect(
            where,
            timeout_s=job.timeout_s,
            heartbeat_s=job.heartbeat_s,
            threads=job.threads or None,
            keys=job.keys,
            insecure=job.insecure,
            last_word=word,
        )
        watch = Watch(lambda: closed_quietly(session), first=word.silence if word else lambda: None)
        try:
            yield session
        except BaseException:
            closed_quietly(session)
            raise
        finally:
            session.close()
            watch.done()


def _prepared(job: Job) -> tuple[ZooModel, NDArray[np.float32]]:
    from fogconv.images import load_image
    from fogconv.zoo import load_model

    # Images are opened before weights are fetched: a typo costs no time.
    pictures = [load_image(name) for name in job.images]
    model = load_model(job.model, weights=job.weights, size=job.size, mean=job.mean, std=job.std, labels=job.labels)
    return model, np.stack([model.preprocess(picture) for picture in pictures])


def _engine(job: Job, session: Session, model: ZooModel, x: NDArray[np.float32], progress: Callable[[Any], None]) -> Engine:
    import torch

    from fogconv.export import export

    graph = export(model.module, torch.from_numpy(x), model.name)
    topology = _topology(job, session)
    choices = Choices(
        job.scheme,
        job.trigger,
        job.threshold,
        job.master_computes,
        job.even,
        wire_of(job.wire, graph, topology, job.scheme),
        None if job.plan is None else load_plan(job.plan),
        rehearse=job.rehearse,
        adapt=job.adapt and job.plan is None,
        protection=Protection(job.verify, job.redundancy, job.patience),
    )
    if choices.plan is not None and choices.plan.ranks != session.ranks:
        raise InputError(
            f"{job.plan} is a plan for {choices.plan.ranks} ranks, but this cluster has {session.ranks}; plan again"
        )
    return Engine(graph, session, topology, choices, progress)


def _topology(job: Job, session: Session) -> Topology:
    from fogconv.calibration import calibrate_quickly

    if job.profile is None:
        return calibrate_quickly(session)
    from fogconv.profile import read_profile

    topology = read_profile(job.profile).topology(str(job.profile))
    if len(topology) < session.ranks:
        raise InputError(
            f"{job.profile} describes {len(topology)} devices, but this cluster has {session.ranks}; calibrate again"
        )
    return topology.subset(range(session.ranks))


def _measure(job: Job, shown: Shown, session: Session, engine: Engine, model: ZooModel, x: NDArray[np.float32]) -> Result:
    first = engine.run(x)
    runs = [engine.run(x) for _ in range(job.repeat)]
    if not np.isfinite(first.output).all():
        raise ModelError(f"{model.name} gives infinities or NaN for this input, with weights {model.weights_origin}")
    median = statistics.median_low([run.latency_s for run in runs])
    typical = next(run for run in runs if run.latency_s == median)
    outputs, frames = [first.output], None
    if job.stream:
        streamed, frames = _stream(engine, x, job.stream)
        outputs += streamed
    reference, torch_s = _torch(model, x, job.repeat) if job.compare else (None, None)
    terms = None
    if typical.plan.scheme == "star":
        terms = layer_terms(engine.graph, typical.plan, typical.programs, engine.topology)
    layers = layer_reports(engine.graph, typical.plan, typical.programs, typical.run.times, predicted=terms)
    if shown.trace is not None:
        _write_trace(shown.trace, engine, typical)
    return Result(
        job,
        model.name,
        model.weights_origin,
        job.cluster or session.scheme,
        len(engine.ranks) - 1,
        engine.plan.scheme,
        tuple(_top5(model, row) for row in first.output),
        median,
        engine.plan.predicted_s,
        torch_s,
        None if reference is None else max(float(np.abs(output - reference).max()) for output in outputs),
        None if reference is None else float(np.abs(reference).max()),
        tuple(layers),
        tuple(engine.events),
        frames,
    )


def _torch(model: ZooModel, x: NDArray[np.float32], repeat: int) -> tuple[NDArray[np.float32], float]:
    import torch

    seconds = []
    with torch.inference_mode():
        image = torch.from_numpy(x)
        reference = cast("NDArray[np.float32]", model.module(image).numpy())
        for _ in range(repeat):
            begin = time.perf_counter()
            model.module(image)
            seconds.append(time.perf_counter() - begin)
    return reference, statistics.median_low(seconds)


def _stream(engine: Engine, x: NDArray[np.float32], frames: int) -> tuple[list[NDArray[np.float32]], float]:
    """The outputs, and frames per second, with several inferences in flight."""
    begin = time.perf_counter()
    outputs = list(engine.stream(x for _ in range(frames)))
    return outputs, frames / (time.perf_counter() - begin)


def _top5(model: ZooModel, scores: NDArray[np.float32]) -> tuple[Guess, ...]:
    shifted = np.exp(scores.astype(np.float64).ravel() - scores.max())
    probabilities = shifted / shifted.sum()
    best = np.argsort(-probabilities, kind="stable")[:5]
    return tuple(Guess(model.label(int(i)), int(i), float(probabilities[i])) for i in best)


def _write_trace(path: Path, engine: Engine, inference: Inference) -> None:
    from fogconv.trace import write_trace

    names = {0: "master", **{info.rank: info.host for info in engine.session.workers}}
    write_trace(path, trace_events(inference.programs, inference.run.times), names)
