"""``fogconv warm``: export, measure and compile ahead what a run of one model needs, so that its first answer comes soon."""

from __future__ import annotations

import sys
import time
from typing import Annotated

import typer

from fogconv.cli.options.connection import InprocWorkersOption, InsecureOption, KeysOption, ThreadsOption
from fogconv.cli.options.hardware import MeasureOption, ProfileOption
from fogconv.cli.options.model import BatchOption, RunnableModelArgument, TrustOption, WeightsOption, size_help
from fogconv.cli.options.output import JsonOption
from fogconv.cli.options.panels import WHAT, WHERE
from fogconv.cli.options.plan import MASTER_COMPUTES, MasterComputesOption, PlanOption, SchemeOption, plan_options
from fogconv.cli.options.values import CLUSTER, SIZE, Pair
from fogconv.cli.process.mpi_ranks import ranks_released, serves_as_rank
from fogconv.errors import InputError


def warm(
    model: RunnableModelArgument,
    weights: WeightsOption = "pretrained",
    trust: TrustOption = False,
    size: Annotated[
        Pair | None,
        typer.Option(
            parser=SIZE,
            help=size_help("the model's"),
            rich_help_panel=WHAT,
        ),
    ] = None,
    batch: BatchOption = 1,
    cluster: Annotated[
        str | None,
        typer.Option(
            parser=CLUSTER,
            help="Workers as tcp://HOST:PORT,… or a hostfile; by default in this process.",
            rich_help_panel=WHERE,
        ),
    ] = None,
    workers: InprocWorkersOption = -1,
    threads: ThreadsOption = 0,
    keys: KeysOption = None,
    insecure: InsecureOption = False,
    profile: ProfileOption = None,
    measure: MeasureOption = False,
    scheme: SchemeOption = None,
    master_computes: MasterComputesOption = MASTER_COMPUTES,
    plan: PlanOption = None,
    as_json: JsonOption = False,
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
