"""``fogconv warm``: export, measure and compile ahead what a run of one model needs, so that its first answer comes soon."""

from __future__ import annotations

import sys
import time
from typing import Annotated

import typer

from fogconv.cli.connection_options import InsecureOption, KeysOption
from fogconv.cli.hardware_options import MeasureOption, ProfileOption
from fogconv.cli.option_values import CLUSTER, MODEL, SIZE, WEIGHTS, Pair, number
from fogconv.cli.panels import OUTPUT, WHAT, WHERE
from fogconv.cli.plan_options import MASTER_COMPUTES, MasterComputesOption, PlanOption, SchemeOption, plan_options
from fogconv.cli.process.mpi_ranks import ranks_released, serves_as_rank
from fogconv.errors import InputError
from fogconv.values import table


def warm(
    model: Annotated[
        str,
        typer.Argument(
            parser=MODEL,
            help="A torchvision model's name, efficientnet_lite0, a name of `fogconv models list`, or a .pt2 or .onnx file.",
        ),
    ],
    weights: Annotated[
        str,
        typer.Option(
            parser=WEIGHTS, help="Weights to use: pretrained, random, or the path of a state_dict.", rich_help_panel=WHAT
        ),
    ] = "pretrained",
    trust: Annotated[
        bool,
        typer.Option(
            "--trust", help="Let a .pt2 file run code when it is loaded, because you trust its maker.", rich_help_panel=WHAT
        ),
    ] = False,
    size: Annotated[
        Pair | None,
        typer.Option(
            parser=SIZE,
            help="Size of the pictures in pixels, such as 224 or 960x1280 (height, width); by default the model's.",
            rich_help_panel=WHAT,
        ),
    ] = None,
    batch: Annotated[
        int,
        typer.Option(parser=number("count", table.BATCH), help="Number of images at once.", rich_help_panel=WHAT),
    ] = 1,
    cluster: Annotated[
        str | None,
        typer.Option(
            parser=CLUSTER,
            help="Workers as tcp://HOST:PORT,… or a hostfile; by default in this process.",
            rich_help_panel=WHERE,
        ),
    ] = None,
    workers: Annotated[
        int,
        typer.Option(
            parser=number("count", table.INPROC_WORKERS),
            help="Number of workers in this process where no cluster is given; -1: one per spare core.",
            rich_help_panel=WHERE,
        ),
    ] = -1,
    threads: Annotated[
        int,
        typer.Option(
            parser=number("count", table.THREADS),
            help="Number of threads for kernels of the master and in-process workers; 0: all cores.",
            rich_help_panel=WHERE,
        ),
    ] = 0,
    keys: KeysOption = None,
    insecure: InsecureOption = False,
    profile: ProfileOption = None,
    measure: MeasureOption = False,
    scheme: SchemeOption = None,
    master_computes: MasterComputesOption = MASTER_COMPUTES,
    plan: PlanOption = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object on stdout.", rich_help_panel=OUTPUT)
    ] = False,
) -> None:
    """Prepare a model on all ranks, without a picture: graph, rates and compiled kernels are kept for later runs.

    Give the options of the run that is to start fast: another size, scheme or cluster needs other kernels.
    """
    if serves_as_rank(cluster, threads):
        return
    with ranks_released():
        from fogconv.cli.output.console import LoadingBar
        from fogconv.cli.output.result import Job
        from fogconv.cli.run_job import engine_of, opened_session
        from fogconv.frontend.network import open_network
        from fogconv.runtime.run_options import RunOptions
        from fogconv.zoo.model_request import ModelRequest

        if measure and profile is not None:
            raise InputError("--measure and --profile both say where the rates come from; leave one out")
        begin = time.perf_counter()
        job = Job(
            model=model,
            images=(),
            cluster=cluster or "",
            workers=workers,
            plan_options=plan_options(scheme, None, None, master_computes, plan=plan),
            run_options=RunOptions(measure=measure, threads=threads, keys=keys, insecure=insecure),
            profile=profile,
        )
        bar = LoadingBar(as_json)
        with opened_session(job, bar) as session:
            request = ModelRequest(model, weights, None if size is None else size.pixels, trust)
            network = open_network(request, batch=batch)
            network.keep()
            with bar as progress:
                engine = engine_of(job, session, network, None, progress)
            scheme_name, ranks = engine.plan.scheme, len(engine.ranks)
            engine.close()
        seconds = time.perf_counter() - begin
        if as_json:
            from fogconv.cli.output.json_text import json_text

            found = {"model": network.card.name, "scheme": scheme_name, "ranks": ranks, "batch": batch, "seconds": seconds}
            sys.stdout.write(json_text(found) + "\n")
            return
        where = "the master alone" if ranks == 1 else f"{ranks} ranks"
        print(f"{network.card.name} is ready on {where} by the scheme {scheme_name}, after {seconds:.1f} s.")


if __name__ == "__main__":
    typer.run(warm)
