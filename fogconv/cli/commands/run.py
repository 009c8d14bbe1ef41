"""``fogconv run``: one model, one or several images, on a cluster."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from fogconv.cli.options.connection import InprocWorkersOption, InsecureOption, KeysOption, ThreadsOption
from fogconv.cli.options.hardware import MeasureOption, ProfileOption
from fogconv.cli.options.model import MeanOption, RunnableModelArgument, StdOption, TrustOption, WeightsOption, size_help
from fogconv.cli.options.output import JsonOption, TraceOption
from fogconv.cli.options.panels import HOW, OUTPUT, STAR, WHAT, WHERE
from fogconv.cli.options.plan import (
    CUTS_AT,
    MASTER_COMPUTES,
    WIRE,
    AllowSwapOption,
    CutsOption,
    DeadlineOption,
    EvenOption,
    KeepInputHomeOption,
    MasterComputesOption,
    ObjectiveOption,
    PartsOption,
    PinsOption,
    PlanOption,
    SchemeOption,
    SplitOption,
    ThresholdOption,
    TilesOption,
    TriggerOption,
    WireOption,
    plan_options,
)
from fogconv.cli.options.precision import FP32, CalibrateOption, PrecisionOption
from fogconv.cli.options.values import (
    CLUSTER,
    FILE,
    INPUT,
    MEMORY,
    PICTURE,
    SIZE,
    Pair,
    number,
    output,
)
from fogconv.cli.process.mpi_ranks import ranks_released, serves_as_rank
from fogconv.cluster.transport.mpi.launch import launched
from fogconv.errors import InputError
from fogconv.ir.guard import Protection
from fogconv.runtime.run_options import RunOptions
from fogconv.values import table


class TaskName(StrEnum):
    CLASSIFY = "classify"
    DETECT = "detect"
    SEGMENT = "segment"
    TEXT = "text"
    RAW = "raw"


_DEFAULTS, _GUARDS = RunOptions(), Protection()


def run(
    model: RunnableModelArgument,
    image: Annotated[
        list[str] | None,
        typer.Option(
            parser=PICTURE,
            help="Path of a picture or of a tensor (.npy), - for standard input, or page, astronaut, coffee, …; may be "
            "repeated.",
            rich_help_panel=WHAT,
        ),
    ] = None,
    weights: WeightsOption = "pretrained",
    trust: TrustOption = False,
    task: Annotated[
        TaskName | None,
        typer.Option(help="What the outputs mean; by default known by the model's name.", rich_help_panel=WHAT),
    ] = None,
    read: Annotated[
        bool,
        typer.Option(
            "--read",
            help="Read the regions of text by ppocr-rec, and turn them by ppocr-cls if it is there, on the master.",
            rich_help_panel=WHAT,
        ),
    ] = False,
    size: Annotated[
        Pair | None,
        typer.Option(
            parser=SIZE,
            help=size_help("the model's, or where it takes any size the first picture's, rounded up"),
            rich_help_panel=WHAT,
        ),
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option(
            parser=number("count", table.BATCH),
            help="Number of images at once; by default those that are given, else each as often as they go into it.",
            rich_help_panel=WHAT,
        ),
    ] = None,
    inputs: Annotated[
        list[Any] | None,
        typer.Option(
            "--input",
            parser=INPUT,
            help="Another input of the model, such as image_shape=shape.npy; may be repeated.",
            rich_help_panel=WHAT,
        ),
    ] = None,
    mean: MeanOption = None,
    std: StdOption = None,
    labels: Annotated[
        Path | None, typer.Option(parser=FILE, help="File with the names of the classes, one a line.", rich_help_panel=WHAT)
    ] = None,
    cluster: Annotated[
        str | None,
        typer.Option(
            parser=CLUSTER,
            help="Workers as tcp://HOST:PORT,… or a hostfile; by default mpirun's ranks, else in this process.",
            rich_help_panel=WHERE,
        ),
    ] = None,
    workers: InprocWorkersOption = -1,
    threads: ThreadsOption = _DEFAULTS.threads,
    memory: Annotated[
        int | None,
        typer.Option(
            parser=MEMORY,
            help="Memory limit in bytes, such as 400M, of the master (without the model that it opened), of each in-process "
            "worker, and of each of mpirun's ranks; counted as a worker's --memory. By default none.",
            rich_help_panel=WHERE,
        ),
    ] = None,
    timeout: Annotated[
        float,
        typer.Option(
            parser=number("seconds", table.MESSAGE_TIME),
            help="Seconds to wait for each message of a run.",
            rich_help_panel=WHERE,
        ),
    ] = _DEFAULTS.timeout_s,
    heartbeat: Annotated[
        float,
        typer.Option(
            parser=number("seconds", table.HEARTBEAT),
            help="Seconds within which a lost worker is noticed.",
            rich_help_panel=WHERE,
        ),
    ] = _DEFAULTS.heartbeat_s,
    keys: KeysOption = _DEFAULTS.keys,
    insecure: InsecureOption = _DEFAULTS.insecure,
    profile: ProfileOption = None,
    measure: MeasureOption = False,
    scheme: SchemeOption = None,
    trigger: TriggerOption = None,
    threshold: ThresholdOption = None,
    master_computes: MasterComputesOption = MASTER_COMPUTES,
    even: EvenOption = False,
    parts: PartsOption = None,
    split: SplitOption = None,
    wire: WireOption = WIRE,
    allow_swap: AllowSwapOption = False,
    cuts: CutsOption = CUTS_AT,
    tiles: TilesOption = None,
    pin: PinsOption = None,
    keep_input_home: KeepInputHomeOption = False,
    objective: ObjectiveOption = None,
    deadline: DeadlineOption = None,
    plan: PlanOption = None,
    precision: PrecisionOption = FP32,
    calibrate: CalibrateOption = None,
    verify: Annotated[
        bool,
        typer.Option(
            "--verify", help="Check all results of workers by checksums, and compute wrong ones again.", rich_help_panel=STAR
        ),
    ] = _GUARDS.verify,
    redundancy: Annotated[
        int,
        typer.Option(
            parser=number("count", table.REDUNDANCY),
            help="Number of parity workers, 0 or 1; with 1, a result survives the loss of any one worker.",
            rich_help_panel=STAR,
        ),
    ] = _GUARDS.redundancy,
    patience: Annotated[
        float,
        typer.Option(
            help="How many times the predicted time to wait before the master computes a share; 0: no limit.",
            parser=number("ratio", table.PATIENCE),
            rich_help_panel=STAR,
        ),
    ] = _GUARDS.patience,
    adapt: Annotated[
        bool, typer.Option(help="Make a new plan when a worker or a link slows down.", rich_help_panel=HOW)
    ] = _DEFAULTS.adapt,
    rehearse: Annotated[
        bool, typer.Option("--rehearse", help="Preload a fallback plan for every loss of one worker.", rich_help_panel=HOW)
    ] = _DEFAULTS.rehearse,
    early: Annotated[
        bool,
        typer.Option(
            "--early",
            help="With --scheme offload: begin before all weights are sent, those first that gain most per byte.",
            rich_help_panel=HOW,
        ),
    ] = _DEFAULTS.early,
    repeat: Annotated[
        int,
        typer.Option(
            parser=number("count", table.REPEATS),
            help="Number of warm runs; the latency is their median.",
            rich_help_panel=OUTPUT,
        ),
    ] = 5,
    stream: Annotated[
        int,
        typer.Option(
            help="Number of frames to stream afterwards, several in flight, to show frames per second.",
            parser=number("count", table.FRAMES),
            rich_help_panel=OUTPUT,
        ),
    ] = 0,
    in_flight: Annotated[
        int | None,
        typer.Option(
            help="The number of frames of the stream in flight at once, at most; by default what the plan states, or 3.",
            parser=number("count", table.IN_FLIGHT),
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    compare: Annotated[
        bool,
        typer.Option(
            "--compare",
            help="Also run the model in torch (an .onnx file: in ONNX Runtime) on the master, for its time and its answer.",
            rich_help_panel=OUTPUT,
        ),
    ] = False,
    json: JsonOption = False,
    layers: Annotated[
        bool,
        typer.Option(
            "--layers", help="Show a table, too: the predicted and measured times of each layer.", rich_help_panel=OUTPUT
        ),
    ] = False,
    draw: Annotated[
        Path | None,
        typer.Option(
            parser=output(".png", ".jpg", ".jpeg"),
            help="Write the picture with what was found in it, as a .png or .jpg file.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    trace: TraceOption = None,
) -> None:
    """Run a CNN on a cluster and show the answer, the distributed layers, and the speedup.

    A run continues after the loss of a worker over ZeroMQ, and with Open MPI's mpirun --with-ft ulfm; other mpiruns end
    the job.
    """
    if serves_as_rank(cluster, threads, memory):
        return
    launch = launched()
    with ranks_released():
        from fogconv.cli.output.result import Job
        from fogconv.cli.run_job import Shown, run_job

        if measure and profile is not None:
            raise InputError("--measure and --profile both say where the rates come from; leave one out")
        if in_flight is not None and not stream:
            raise InputError("--in-flight is for the frames of --stream N; add that, or leave it out")
        guards = Protection(verify, redundancy, patience)
        job = Job(
            model=model,
            images=tuple(image or ("coffee",)),
            cluster=cluster or "",
            workers=workers,
            plan_options=plan_options(
                scheme,
                trigger,
                threshold,
                master_computes,
                wire,
                even=even,
                parts=parts,
                split=split,
                protection=guards,
                plan=plan,
                allow_swap=allow_swap,
                cuts=cuts,
                tiles=tiles,
                pins=pin,
                keep_input_home=keep_input_home,
                objective=objective,
                deadline=deadline,
            ),
            run_options=RunOptions(
                adapt=adapt,
                rehearse=rehearse,
                early=early,
                measure=measure,
                threads=threads,
                memory_bytes=memory,
                timeout_s=timeout,
                heartbeat_s=heartbeat,
                keys=keys,
                insecure=insecure,
            ),
            profile=profile,
            weights=weights,
            task=None if task is None else task.value,
            read=read,
            size=None if size is None else size.pixels,
            batch=batch,
            inputs=tuple(inputs or ()),
            mean=None if mean is None else mean.each,
            std=None if std is None else std.each,
            labels=labels,
            repeat=repeat,
            stream=stream,
            in_flight=in_flight,
            compare=compare,
            trust=trust,
            precision=str(precision),
            calibrate=tuple(calibrate or ()),
        )
        run_job(
            job,
            Shown(
                json=json,
                layers=layers,
                trace=trace,
                draw=draw,
                alone=launch is not None and launch.size == 1,
                out=sys.stdout,
            ),
        )
