"""``fogconv plan``: how a model would be distributed over a cluster, without running it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fogconv.cli.options.connection import InsecureOption, KeysOption
from fogconv.cli.options.hardware import (
    BandwidthOption,
    LatencyOption,
    MeasureOption,
    MemoryOption,
    PresetOption,
    ProfileOption,
    RanksOption,
    RateOption,
    ReadRateOption,
    measured_or_described,
)
from fogconv.cli.options.model import ModelArgument, PlannedTrustOption, size_help
from fogconv.cli.options.output import JsonOption
from fogconv.cli.options.panels import HOW, OUTPUT, WHERE
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
    SchemeOption,
    SplitOption,
    ThresholdOption,
    TilesOption,
    TriggerOption,
    WireOption,
    plan_options,
)
from fogconv.cli.options.precision import FP32, PlannedPrecisionOption
from fogconv.cli.options.values import CLUSTER, SIZE, Pair, number, output
from fogconv.cli.output.written import say_written
from fogconv.cli.process.exit_codes import sentences
from fogconv.errors import InputError
from fogconv.values import table

if TYPE_CHECKING:
    from fogconv.ir.graph import LayerGraph
    from fogconv.ir.plan import Plan

SUFFIXES = (".png", ".svg", ".pdf")


def plan(
    model: ModelArgument,
    cluster: Annotated[
        str | None,
        typer.Option(
            parser=CLUSTER,
            help="Measure the devices and links of this cluster: tcp://HOST:PORT,… or a hostfile.",
            rich_help_panel=WHERE,
        ),
    ] = None,
    keys: KeysOption = None,
    insecure: InsecureOption = False,
    ranks: RanksOption = None,
    preset: PresetOption = None,
    profile: ProfileOption = None,
    measure: MeasureOption = False,
    rate: RateOption = None,
    bandwidth: BandwidthOption = None,
    latency: LatencyOption = None,
    memory: MemoryOption = None,
    read_rate: ReadRateOption = None,
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
    precision: PlannedPrecisionOption = FP32,
    size: Annotated[
        Pair | None,
        typer.Option(
            parser=SIZE,
            help=size_help(),
            rich_help_panel=HOW,
        ),
    ] = None,
    trust: PlannedTrustOption = False,
    batch: Annotated[
        int, typer.Option(parser=number("count", table.BATCH), help="Number of images at once.", rich_help_panel=HOW)
    ] = 1,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            parser=output(),
            help="Write the plan to this file, for `fogconv run --plan`.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            parser=output(*SUFFIXES), help="Draw a timeline into this file: .png, .svg or .pdf.", rich_help_panel=OUTPUT
        ),
    ] = None,
    program: Annotated[
        int | None,
        typer.Option(
            parser=number("count", table.RANK),
            help="Print the steps of this rank's program instead of tables.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show the cheapest path of layouts through a model: the split per layer, the time, bytes per network card, memory."""
    with sentences("fogconv plan"):
        from fogconv.analysis.forecast import forecast
        from fogconv.analysis.timeline import draw
        from fogconv.calibration.narrow import elements_of, without_instruction
        from fogconv.choice.noise import rivals
        from fogconv.planning.planner import plan as make_plan

        options = plan_options(
            scheme,
            trigger,
            threshold,
            master_computes,
            wire,
            even=even,
            parts=parts,
            split=split,
            allow_swap=allow_swap,
            cuts=cuts,
            tiles=tiles,
            pins=pin,
            keep_input_home=keep_input_home,
            objective=objective,
            deadline=deadline,
        )
        graph = _graph(model, size, batch, trust, str(precision))
        cluster_hardware = measured_or_described(
            cluster,
            keys,
            insecure,
            measure,
            profile=profile,
            ranks=ranks,
            preset=preset,
            rate=rate,
            bandwidth=bandwidth,
            latency=latency,
            memory=memory,
            read_rate=read_rate,
            disks=allow_swap,
            elements=elements_of(graph),
        )
        topology, sources = cluster_hardware.topology, cluster_hardware.sources
        options.check_ranks(len(topology))
        found = make_plan(graph, topology, options)
        allowed = options.allowed(graph, len(topology))
        found_forecast = forecast(graph, found, topology, allowed)
        slower = without_instruction(graph, topology)
        others = () if program is not None else rivals(graph, found, topology, options, cluster_hardware.spreads)
        if out is not None:
            _save(found, out)
        if plot is not None:
            draw(plot, graph, found, topology, allowed)
        if program is not None:
            print(_program(graph, found, program))
        elif as_json:
            from fogconv.cli.output.json_text import json_text
            from fogconv.cli.output.tables.plan import rivals_json

            rates = {"rates": [source.as_json() for source in sources]} if sources else {}
            more = {"noise": rivals_json(others), "precision_note": slower or None}
            print(json_text(found_forecast.as_json() | more | rates))
        else:
            from fogconv.cli.output.tables.plan import print_plan

            print_plan(found_forecast, cluster_hardware.description, others, out=sys.stdout)
            _say_how(graph)
            if slower:
                print(slower)
        for path in (out, plot):
            if path is not None:
                say_written(path)


def _graph(model: str, size: Pair | None, batch: int, trust: bool, precision: str) -> LayerGraph:
    from fogconv.frontend.network import network_graph
    from fogconv.quantization.precision import for_shapes
    from fogconv.zoo.model_request import ModelRequest

    request = ModelRequest.for_shapes(model, None if size is None else size.pixels, trust)
    return for_shapes(network_graph(request, batch=batch), precision)


def _say_how(graph: LayerGraph) -> None:
    """In which precision its layers are, and what was left out of it."""
    from fogconv.frontend.zero_channels import dropped_channels, sentence
    from fogconv.quantization.precision import precision_report

    report = precision_report(graph)
    if report is not None:
        print(report.sentence)
    if dropped := dropped_channels(graph):
        print(sentence(dropped))


def _program(graph: LayerGraph, plan: Plan, rank: int) -> str:
    from fogconv.analysis.listing import listing
    from fogconv.lowering.lower import lower

    if rank >= plan.ranks:
        raise InputError(f"--program {rank}: the plan has the ranks 0 to {plan.ranks - 1}")
    return listing(lower(graph, plan).programs[rank])


def _save(plan: Plan, path: Path) -> None:
    from fogconv.ir.plan import save_plan

    try:
        save_plan(plan, path)
    except OSError as error:
        raise InputError(f"--out {path}: can't be written: {error.strerror or error}") from error


if __name__ == "__main__":
    typer.run(plan)
