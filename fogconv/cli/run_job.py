"""Job: the work of one ``fogconv run`` on the master, and its results."""

from __future__ import annotations

import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np

from fogconv.analysis.layer_report import layer_reports, trace_events
from fogconv.analysis.workload import rank_works, workload
from fogconv.cli.output.answer import print_answer, print_outputs
from fogconv.cli.output.console import LoadingBar
from fogconv.cli.output.json_text import json_text
from fogconv.cli.output.report import print_report
from fogconv.cli.output.result import Job, OutputFigures, Result, SharedMachine
from fogconv.cli.output.tables.findings import print_findings
from fogconv.cli.process.collection import collect_as_usual, collect_now, spare_what_is_here
from fogconv.cli.process.interrupt import Watch
from fogconv.cli.process.mpi_ranks import closed_quietly, last_word
from fogconv.cluster.connect import connect
from fogconv.cluster.session.session import Session
from fogconv.cluster.transport.mpi.launch import launched
from fogconv.cluster.worker.process import cores
from fogconv.errors import DependencyError, InputError
from fogconv.frontend.ports import arrays_of
from fogconv.frontend.zero_channels import dropped_channels
from fogconv.ir.arrays import Array
from fogconv.ir.layout import MASTER
from fogconv.ir.steps import Pixels
from fogconv.quantization.precision import precision_report
from fogconv.runtime.engine import Engine, Inference
from fogconv.storage.array_file import read_array
from fogconv.storage.trusted import open_plain

if TYPE_CHECKING:
    from fogconv.analysis.outlook import Outlook
    from fogconv.calibration.cache import Master
    from fogconv.calibration.calibration import Calibration
    from fogconv.calibration.rate_source import RateSource
    from fogconv.cli.pictures import Inputs
    from fogconv.cluster.session.worker_record import WorkerInfo
    from fogconv.frontend.network import Alone, Network
    from fogconv.hardware.topology import Topology
    from fogconv.ir.graph import LayerGraph
    from fogconv.tasks.draw import Finding
    from fogconv.tasks.text.reading import Reader
    from fogconv.zoo.card import ModelCard


Outputs = Mapping[str, Array]
"""A run's outputs by name."""


@dataclass(frozen=True)
class Shown:
    """Where and how results are shown. ``alone``: mpirun started one rank only. ``layers``: with the table per layer.
    ``draw``: where the picture with what was found in it is written."""

    json: bool = False
    layers: bool = False
    trace: Path | None = None
    draw: Path | None = None
    alone: bool = False
    out: TextIO = field(default_factory=lambda: sys.stdout)


def run_job(job: Job, shown: Shown) -> Result:
    """Run a job. Raises FogconvError; the cluster is left ready for the next master."""
    bar = LoadingBar(shown.json)
    with opened_session(job, bar) as session:
        network, pictures, given, reader = _prepared(job, shown)
        with bar as progress:
            engine = engine_of(job, session, network, pictures.pixels, progress)
        first = engine.run(given).outputs
        found = pictures.findings(network.card, first)
        if reader is not None:
            found = pictures.read(found, reader)
        _show(shown, network.card, pictures, found, first)
        network.keep()
        result = _measure(job, shown, session, engine, network, given, first, found)
        engine.close()
    if shown.json:
        shown.out.write(json_text(result.as_json()) + "\n")
    else:
        print_report(result, out=shown.out, alone=shown.alone, layers=shown.layers)
    return result


@contextmanager
def opened_session(job: Job, bar: LoadingBar) -> Iterator[Session]:
    """The job's session. Under mpirun it is opened before anything else can fail, so that the ranks end."""
    launch, options = launched(), job.run_options
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
            timeout_s=options.timeout_s,
            heartbeat_s=options.heartbeat_s,
            threads=options.threads or None,
            keys=options.keys,
            insecure=options.insecure,
            last_word=word,
        )

        def close() -> None:
            bar.stop()
            closed_quietly(session)

        watch = Watch(close, first=word.silence if word else lambda: None)
        try:
            yield session
        except BaseException:
            closed_quietly(session)
            raise
        finally:
            session.close()
            watch.done()


def _prepared(job: Job, shown: Shown) -> tuple[Network, Inputs, list[Array], Reader | None]:
    """The model, the pictures, its inputs in their order: the pictures, and what files give; and what reads text."""
    from fogconv.cli.pictures import check_drawable, input_size, inputs, opened, text_reader
    from fogconv.frontend.network import open_network
    from fogconv.tasks.task import card_for
    from fogconv.zoo.model_request import ModelRequest

    # Images are opened before weights are downloaded, so that a typo costs no time.
    given = opened(job.images)
    check_drawable(given, shown.draw)
    batch = job.batch or len(given)
    if batch % len(given):
        raise InputError(f"--batch {batch} is no multiple of the {len(given)} pictures that are given")
    others = {name: _array(name, path) for name, path in job.inputs}
    shapes = tuple((name, array.shape) for name, array in others.items())
    size = input_size(job.model, given, job.size)
    request = ModelRequest(job.model, job.weights, size, job.trust, shapes)
    frame = given[0].size
    network = open_network(request, batch=batch, frame=frame, mean=job.mean, std=job.std, labels=job.labels)
    card = card_for(network.card, job.task, [port.shape for port in network.graph.outputs])
    network = replace(network, card=card)
    if job.read and card.task != "text":
        raise InputError(f"--read is for regions of text; the task of {card.name} is {card.task}")
    if network.rounded is not None:
        print(f"{job.model} takes pictures of {network.rounded}; --size HxW says another size", file=sys.stderr)
    tensor = network.graph.picture
    prepared = inputs(card, given, (batch, tensor.channels, tensor.height, tensor.width))
    reader = text_reader() if job.read else None
    network = _in_precision(network, job)
    spare_what_is_here()
    return network, prepared, arrays_of(network.graph, {network.graph.inputs[0].name: prepared.x, **others}), reader


def _in_precision(network: Network, job: Job) -> Network:
    """The network as it is to run. It is quantised here, in a second or two per picture."""
    if job.precision == "fp32":
        return network
    from fogconv.cli.calibration_pictures import batches
    from fogconv.quantization.precision import in_precision

    given = batches(job.calibrate, network.card, network.graph) if job.calibrate else None
    graph = in_precision(network.graph, job.precision, given, threads=job.run_options.threads or cores())
    return replace(network, graph=graph)


def _show(shown: Shown, card: ModelCard, pictures: Inputs, found: tuple[Finding, ...], outputs: Outputs) -> None:
    """What was found, before anything is measured."""
    from fogconv.cli.pictures import draw
    from fogconv.tasks.classify import Classes

    if shown.draw is not None:
        draw(pictures.given[0], found[0], shown.draw)
    if shown.json:
        return
    named = [(given.name, each) for given, each in zip(pictures.given, found, strict=True)]
    answers = [(name, each.guesses) for name, each in named if isinstance(each, Classes)]
    if answers:
        print_answer(answers, random_weights=card.has_random_weights, out=shown.out)
    elif card.task == "raw":
        print_outputs(figures_of([outputs], None), out=shown.out)
    else:
        print_findings(named, random_weights=card.has_random_weights, out=shown.out)


def _array(name: str, path: Path) -> Array:
    """An input from an ``.npy`` file. Raises InputError."""
    try:
        with open_plain(path) as file:
            return read_array(file, f"--input {name}={path}")
    except OSError as error:
        raise InputError(f"--input {name}={path} can't be read: {error.strerror or error}") from error


def engine_of(
    job: Job, session: Session, network: Network, pixels: Pixels | None, progress: Callable[[Any], None]
) -> Engine:
    from fogconv.calibration.members import tiers_of

    measured = _measured(job, session, network.graph)
    tiers = tiers_of(job.cluster)
    topology = _profile(job, session, tiers) if measured is None else measured.topology.in_tiers(tiers)
    plan = job.plan_options.plan
    if plan is not None and plan.ranks != session.ranks:
        raise InputError(f"--plan is a plan for {plan.ranks} ranks, but this cluster has {session.ranks}; plan again")
    options = replace(job.plan_options, pixels=pixels)
    return Engine(network.graph, session, topology, options, job.run_options, progress, measured)


def _measured(job: Job, session: Session, graph: LayerGraph) -> Calibration | None:
    """What is measured, or remembered, of the session; None where a profile says it."""
    if job.profile is not None:
        return None
    from fogconv.calibration.calibration import calibrate_quickly
    from fogconv.calibration.members import priors_of
    from fogconv.calibration.narrow import elements_of

    return calibrate_quickly(
        session,
        refresh=job.run_options.measure,
        priors=priors_of(job.cluster),
        disks=job.plan_options.allow_swap,
        elements=elements_of(graph),
    )


def _profile(job: Job, session: Session, tiers: Mapping[int, str]) -> Topology:
    from fogconv.hardware.profile import read_profile

    assert job.profile is not None
    topology = read_profile(job.profile).topology(str(job.profile), tiers)
    if len(topology) < session.ranks:
        raise InputError(
            f"{job.profile} describes {len(topology)} devices, but this cluster has {session.ranks}; calibrate again"
        )
    return topology.subset(range(session.ranks))


def _measure(
    job: Job,
    shown: Shown,
    session: Session,
    engine: Engine,
    network: Network,
    given: list[Array],
    first: Outputs,
    found: tuple[Finding, ...],
) -> Result:
    collect_as_usual()
    collect_now()
    runs = [engine.run(given) for _ in range(job.repeat)]
    median = statistics.median_low([run.latency_s for run in runs])
    typical = next(run for run in runs if run.latency_s == median)
    outputs, frames = [first, *(run.outputs for run in runs)], None
    if job.stream:
        streamed, frames = _stream(engine, given, job.stream, job.in_flight)
        outputs += streamed
    alone = network.alone() if job.compare else None
    reference, alone_s = (None, None) if alone is None else _alone(alone, given, job.repeat)
    figures = figures_of(outputs, reference)
    worst = max(figures, key=lambda output: output.rel_error)
    layers = layer_reports(engine.graph, typical.plan, typical.programs, typical.run.times)
    if shown.trace is not None:
        _write_trace(shown.trace, engine, typical)
    return Result(
        job,
        network.card.name,
        network.card.weights_origin,
        job.cluster or session.scheme,
        len(engine.ranks) - 1,
        engine.plan.scheme,
        network.card.task,
        found,
        median,
        typical.plan.predicted_s,
        None if alone is None else alone.framework,
        alone_s,
        worst.max_abs_error,
        worst.max_abs_reference,
        tuple(layers),
        tuple(engine.events),
        frames,
        runs_s=tuple(run.latency_s for run in runs),
        wire=typical.plan.wire,
        work=workload(typical.programs),
        ranks=rank_works(engine.graph, typical.programs, typical.run.times),
        machines=_shared_machines(session),
        outlook=None if shown.json else _outlook(engine, session),
        rates=_sources(engine, job),
        outputs=figures,
        precision=precision_report(engine.graph),
        zero_channels=dropped_channels(engine.graph),
        slower=_slower(engine, session),
    )


def _slower(engine: Engine, session: Session) -> str:
    """About the ranks without an instruction for the network's precision."""
    from fogconv.calibration.narrow import elements_of, without_instruction
    from fogconv.kernels.codegen.isa import host_multiplies

    if not elements_of(engine.graph):
        return ""
    multiplies = {MASTER: host_multiplies()} | {worker.rank: worker.multiplies for worker in session.workers}
    there = {rank: multiplies[rank] for rank in engine.ranks if rank in multiplies}
    return without_instruction(engine.graph, engine.topology, there)


def _sources(engine: Engine, job: Job) -> tuple[RateSource, ...]:
    """Where each rank's rates come from."""
    from fogconv.calibration.calibration import Calibration
    from fogconv.calibration.rate_source import profile_sources

    if isinstance(engine.lessons, Calibration):
        return engine.lessons.sources
    return profile_sources(engine.topology, str(job.profile))


def _shared_machines(session: Session) -> tuple[SharedMachine, ...]:
    """The machines that several ranks of the session run on."""
    from fogconv.calibration.members import machine_cores, master

    members: dict[int, Master | WorkerInfo] = {0: master(), **{info.rank: info for info in session.workers}}
    cores = machine_cores([member.machine for member in members.values()])
    ranks: dict[str, list[int]] = {}
    for rank, member in members.items():
        if member.machine.identity:
            ranks.setdefault(member.machine.identity, []).append(rank)
    return tuple(
        SharedMachine(members[there[0]].host, tuple(there), cores.get(machine, 0.0), len(there) == len(members))
        for machine, there in ranks.items()
        if len(there) > 1
    )


def _outlook(engine: Engine, session: Session) -> Outlook | None:
    """Where mpirun put all ranks on one machine, which gains nothing: the time on as many machines like it."""
    if session.scheme != "mpi" or not any(shared.by_all for shared in _shared_machines(session)):
        return None
    from fogconv.analysis.outlook import outlook

    try:
        return outlook(engine.graph, engine.topology.devices[0], session.ranks)
    except DependencyError:
        return None  # without simpy there is no simulator


def figures_of(runs: Sequence[Outputs], reference: Sequence[Array] | None) -> tuple[OutputFigures, ...]:
    """Each output of the first of several runs, and the largest difference of all of them from the baseline's."""
    found = []
    for number, (name, first) in enumerate(runs[0].items()):
        least, most = (float(first.min()), float(first.max())) if first.size else (math.nan, math.nan)
        error = largest = None
        if reference is not None:
            wanted = reference[number]
            error = max(_difference(run[name], wanted) for run in runs)
            largest = float(np.abs(wanted).max(initial=0))
        found.append(OutputFigures(name, first.shape, str(first.dtype), least, most, error, largest))
    return tuple(found)


def _difference(output: Array, wanted: Array) -> float:
    if output.shape != wanted.shape:
        return math.inf
    return float(np.abs(output.astype(np.float64) - wanted).max(initial=0))


def _alone(model: Alone, given: list[Array], repeat: int) -> tuple[list[Array], float]:
    """Its outputs, and the median of its times."""
    seconds = []
    reference = model.run(given)
    for _ in range(repeat):
        begin = time.perf_counter()
        model.run(given)
        seconds.append(time.perf_counter() - begin)
    return reference, statistics.median_low(seconds)


def _stream(engine: Engine, given: list[Array], frames: int, in_flight: int | None) -> tuple[list[Outputs], float]:
    """The outputs, and frames per second, with several inferences in flight."""
    begin = time.perf_counter()
    outputs = list(engine.stream_outputs((given for _ in range(frames)), in_flight))
    return outputs, frames / (time.perf_counter() - begin)


def _write_trace(path: Path, engine: Engine, inference: Inference) -> None:
    from fogconv.analysis.trace import write_trace

    names = {0: "master", **{info.rank: info.host for info in engine.session.workers}}
    write_trace(path, trace_events(inference.programs, inference.run.times), names)
