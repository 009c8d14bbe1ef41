"""``fogconv run``: one model, one or several images, on a cluster."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from fogconv.cli.process.mpi_ranks import ranks_released
from fogconv.cluster.transport.mpi.endpoint import launched
from fogconv.cluster.worker.process import serve_mpi
from fogconv.errors import InputError


def run(
    model: Annotated[str, typer.Argument(help="A torchvision model's name, efficientnet_lite0, or a .pt2 file.")],
    image: Annotated[
        list[str] | None, typer.Option(help="A picture's path, or coffee, chelsea, astronaut, …; may be repeated.")
    ] = None,
    cluster: Annotated[
        str, typer.Option(help="tcp://HOST:PORT,… or a hostfile; default: mpirun's ranks, else workers in this process.")
    ] = "",
    workers: Annotated[int, typer.Option(help="In-process workers where no cluster is given; -1: one per spare core.")] = -1,
    scheme: Annotated[str, typer.Option(help="auto, star (the paper's), depth, rows or local.")] = "",
    trigger: Annotated[str, typer.Option(help="Star: both, bound, estimate or channels:N.")] = "",
    threshold: Annotated[
        float | None, typer.Option(help="Star: what S and the estimate have to beat; 0 distributes every conv, inf none.")
    ] = None,
    master_computes: Annotated[
        str, typer.Option(help="Star: on, or off as in the paper, where the master only cuts and joins.")
    ] = "on",
    even: Annotated[bool, typer.Option("--even", help="Star: equal shares instead of shares by measured rate.")] = False,
    wire: Annotated[
        str, typer.Option(help="Activations on the wire: fp32, fp16, bf16, lossless, zeros, lz4, zstd.")
    ] = "fp32",
    plan: Annotated[Path | None, typer.Option(help="Run this plan (of `fogconv plan --out`).")] = None,
    profile: Annotated[
        Path | None, typer.Option(help="Rates and links (of `fogconv calibrate`) instead of measuring them.")
    ] = None,
    weights: Annotated[str, typer.Option(help="pretrained, random, or a state_dict's path.")] = "pretrained",
    trust: Annotated[
        bool, typer.Option("--trust", help="Let a .pt2 run code when it is loaded: you know its maker.")
    ] = False,
    size: Annotated[int | None, typer.Option(help="Input size in pixels (for .pt2).")] = None,
    mean: Annotated[str, typer.Option(help="Mean per channel, as 0.485,0.456,0.406 (for .pt2).")] = "",
    std: Annotated[str, typer.Option(help="Standard deviation per channel (for .pt2).")] = "",
    labels: Annotated[Path | None, typer.Option(help="A file with one label a line.")] = None,
    repeat: Annotated[int, typer.Option(help="Warm runs; the latency is their median.", min=1)] = 5,
    stream: Annotated[
        int, typer.Option(help="Then run so many frames with several in flight; frames per second.", min=0)
    ] = 0,
    compare: Annotated[bool, typer.Option("--compare", help="Run the model in torch on the master, too.")] = False,
    json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
    trace: Annotated[Path | None, typer.Option(help="Write a timeline that Perfetto opens.")] = None,
    threads: Annotated[int, typer.Option(help="Threads for the master's (and in-process workers') kernels; 0: all.")] = 0,
    timeout: Annotated[float, typer.Option(help="Seconds to wait for one message of a run.")] = 60.0,
    heartbeat: Annotated[float, typer.Option(help="Seconds within which a lost worker is noticed.")] = 1.0,
    verify: Annotated[
        bool, typer.Option("--verify", help="Star only: check every worker's results by checksums; redo wrong ones.")
    ] = False,
    redundancy: Annotated[
        int, typer.Option(help="Star only: with 1 a worker holds the sum of all filters: any one may fail.", min=0, max=1)
    ] = 0,
    patience: Annotated[
        float, typer.Option(help="Star only: compute here what takes so many times as long as predicted; 0: wait.", min=0)
    ] = 0.0,
    adapt: Annotated[bool, typer.Option(help="Plan anew when a worker or a link slows down.")] = True,
    rehearse: Annotated[bool, typer.Option("--rehearse", help="Load beforehand what any single loss would need.")] = False,
    keys: Annotated[Path | None, typer.Option(help="Folder with this device's keys; encrypts on loopback too.")] = None,
    insecure: Annotated[bool, typer.Option("--insecure", help="Go without encryption and keys on a network.")] = False,
) -> None:
    """Run a CNN on a cluster and show what it sees, which layers were distributed, and what that gained.

    A worker that dies is survived over ZeroMQ, and with Open MPI's mpirun --with-ft ulfm; other mpiruns end the job.
    """
    launch = launched()
    if launch is not None and launch.rank:
        if not cluster:
            # A worker: serves until the master leaves. It never imports torch.
            sys.stderr = sys.__stderr__
            serve_mpi(threads=threads)
        return
    with ranks_released():
        from fogconv.cli.output.result import Job
        from fogconv.cli.run_job import Shown, run_job

        guarded = verify or redundancy > 0 or patience > 0
        if guarded and scheme not in ("", "star"):
            raise InputError(f"--verify, --redundancy and --patience guard the star's convs, not --scheme {scheme}")
        job = Job(
            model=model,
            images=tuple(image or ("coffee",)),
            cluster=cluster,
            workers=workers,
            scheme=scheme or ("star" if trigger or threshold is not None or guarded else "auto"),
            trigger=trigger or "both",
            threshold=1.0 if threshold is None else threshold,
            master_computes=_on(master_computes),
            even=even,
            wire=wire,
            plan=plan,
            profile=profile,
            weights=weights,
            size=size,
            mean=_numbers("--mean", mean),
            std=_numbers("--std", std),
            labels=labels,
            repeat=repeat,
            stream=stream,
            compare=compare,
            threads=threads,
            timeout_s=timeout,
            heartbeat_s=heartbeat,
            verify=verify,
            redundancy=redundancy,
            patience=patience,
            adapt=adapt,
            rehearse=rehearse,
            keys=keys,
            insecure=insecure,
            trust=trust,
        )
        run_job(job, Shown(json=json, trace=trace, alone=launch is not None and launch.size == 1, out=sys.stdout))


def _on(text: str) -> bool:
    if text not in ("on", "off"):
        raise InputError(f"--master-computes {text!r}: it is on or off")
    return text == "on"


def _numbers(option: str, text: str) -> tuple[float, ...] | None:
    if not text:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"{option} {text!r}: write one number per channel, as 0.485,0.456,0.406") from None
