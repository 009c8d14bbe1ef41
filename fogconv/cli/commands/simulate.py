"""``fogconv simulate``: run a net's programs on simulated devices and links."""

from __future__ import annotations

import statistics
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fogconv.cli.options.hardware import (
    BandwidthOption,
    LatencyOption,
    MemoryOption,
    PresetOption,
    ProfileOption,
    RateOption,
    ReadRateOption,
    SpeedsOption,
    WorkersOption,
    hardware,
    uneven,
)
from fogconv.cli.options.model import PlannedTrustOption, size_help
from fogconv.cli.options.output import JsonOption, TraceOption
from fogconv.cli.options.panels import HOW, OUTPUT, TROUBLE, WHERE
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
from fogconv.cli.options.precision import FP32, PlannedPrecisionOption
from fogconv.cli.options.values import BANDWIDTH, MODEL, SIZE, STRAGGLER, Pair, Straggler, number
from fogconv.cli.output.json_text import json_text
from fogconv.cli.output.written import say_written
from fogconv.cli.process.exit_codes import sentences
from fogconv.errors import InputError
from fogconv.hardware.units import bandwidth_bytes_per_s
from fogconv.planning.schemes import Scheme
from fogconv.values import table

if TYPE_CHECKING:
    from fogconv.hardware.topology import Topology
    from fogconv.ir.graph import LayerGraph
    from fogconv.ir.plan import Plan
    from fogconv.planning.plan_options import PlanOptions
    from fogconv.simulation.simulator import Timeline


BATCH = 8
"""Images in a training step."""


def simulate(
    model: Annotated[str, typer.Argument(parser=MODEL, help="The name of a net, such as vgg16, or a .pt2 or .onnx file.")],
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
    plan: PlanOption = None,
    size: Annotated[
        Pair | None,
        typer.Option(
            parser=SIZE,
            help=size_help("the net's usual one"),
            rich_help_panel=HOW,
        ),
    ] = None,
    trust: PlannedTrustOption = False,
    train: Annotated[
        bool,
        typer.Option(
            "--train",
            help="Predict a training step's convs layer by layer, as fogconv.nn distributes them: forward, both gradients, "
            "transfers.",
            rich_help_panel=HOW,
        ),
    ] = False,
    batch: Annotated[
        int | None,
        typer.Option(
            parser=number("count", table.BATCH),
            help="Number of images in a training step; by default 8.",
            rich_help_panel=HOW,
        ),
    ] = None,
    workers: WorkersOption = None,
    preset: PresetOption = None,
    profile: ProfileOption = None,
    rate: RateOption = None,
    bandwidth: BandwidthOption = None,
    latency: LatencyOption = None,
    memory: MemoryOption = None,
    read_rate: ReadRateOption = None,
    speeds: SpeedsOption = None,
    access_points: Annotated[
        int,
        typer.Option(
            parser=number("count", table.ACCESS_POINTS),
            help="Number of access points that the workers share; 0: cables.",
            rich_help_panel=WHERE,
        ),
    ] = 0,
    access_point_bandwidth: Annotated[
        str, typer.Option(parser=BANDWIDTH, help="Bandwidth of each access point.", rich_help_panel=WHERE)
    ] = "200Mbit/s",
    straggler: Annotated[
        list[Straggler] | None,
        typer.Option(
            parser=STRAGGLER,
            help="Slow a rank down without the plan's knowledge: 3x4 makes rank 3 take 4 times as long.",
            rich_help_panel=TROUBLE,
        ),
    ] = None,
    jitter: Annotated[
        float,
        typer.Option(
            parser=number("ratio", table.JITTER),
            help="Spread of compute times as a fraction; 0.1 is about 10 %.",
            rich_help_panel=TROUBLE,
        ),
    ] = 0.0,
    seed: Annotated[
        int,
        typer.Option(
            parser=number("seed", table.SEED), help="Seed of the jitter's random numbers.", rich_help_panel=TROUBLE
        ),
    ] = 0,
    inferences: Annotated[
        int | None,
        typer.Option(
            parser=number("count", table.INFERENCES),
            help="Number of inferences in all; by default 1, of a stream enough for its rate.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    in_flight: Annotated[
        int | None,
        typer.Option(
            parser=number("count", table.IN_FLIGHT),
            help="Number of inferences in flight at once, on each of a plan's replicas; by default as many as the plan of a "
            "stream states, else 1.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    trace: TraceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Simulate a cluster's programs event by event: up to 1,024 workers, shared media, stragglers."""
    with sentences("fogconv simulate"):
        from fogconv.analysis.trace import write_trace
        from fogconv.analysis.training.step import Medium, training_step
        from fogconv.calibration.narrow import without_instruction
        from fogconv.cli.output.tables.training import print_training
        from fogconv.ir.memory.swapping import read_bytes
        from fogconv.lowering.lower import lower
        from fogconv.planning.plan_options import PlanOptions
        from fogconv.planning.planner import plan as make_plan
        from fogconv.quantization.precision import for_shapes
        from fogconv.simulation import simulator as simulation
        from fogconv.simulation.consumption import joules_per_inference
        from fogconv.simulation.prediction import frames_of_stream, predicted

        options = plan_options(
            scheme,
            trigger,
            threshold,
            master_computes,
            wire,
            even=even,
            parts=parts,
            split=split,
            plan=plan,
            allow_swap=allow_swap,
            cuts=cuts,
            tiles=tiles,
            pins=pin,
            keep_input_home=keep_input_home,
            objective=objective,
            deadline=deadline,
        )
        cluster = hardware(
            preset=preset,
            profile=profile,
            rate=rate,
            bandwidth=bandwidth,
            latency=latency,
            workers=workers,
            memory=memory,
            read_rate=read_rate,
        )
        topology = uneven(cluster.topology, speeds)
        for each in straggler or ():
            if each.rank >= len(topology):
                raise InputError(f"--straggler {each}: there are ranks 0 to {len(topology) - 1}")
        slow = {each.rank: each.factor for each in straggler or ()}
        options.check_ranks(len(topology))
        points = _points(access_points, topology)
        if batch is not None and not train:
            raise InputError("--batch is for --train: an inference is simulated for one image")
        if train:
            _only_with_inferences(scheme, plan, str(wire), inferences, in_flight, trace, options)
            if str(precision) != "fp32":
                raise InputError(f"--precision {precision} is for inferences; training is in fp32")
            disturbance = simulation.Disturbance(slow, jitter=jitter, seed=seed)
            medium = Medium(points, bandwidth_bytes_per_s(access_point_bandwidth), disturbance)
            step = training_step(_graph(model, size, trust), topology, options, batch or BATCH, medium)
            if as_json:
                print(json_text({"model": model, "workers": len(topology.workers)} | step.as_json()))
            else:
                print_training(model, step, cluster.description, out=sys.stdout)
            return
        graph = for_shapes(_graph(model, size, trust), str(precision))
        kept = options.plan
        if kept is not None and kept.ranks > len(topology):
            raise InputError(f"{plan} is for {kept.ranks} ranks; --workers {kept.ranks - 1} or more")
        chosen = make_plan(graph, topology, options) if kept is None else predicted(graph, kept, topology)
        programs, *beside = (lower(graph, lane).programs for lane in chosen.lanes)
        on_each = in_flight or max(lane.in_flight for lane in chosen.lanes)
        usual = frames_of_stream(chosen, on_each) if chosen.frames_per_s is not None else 1
        timeline = simulation.simulate(
            programs,
            topology,
            inferences=inferences or min(usual, int(table.INFERENCES.most)),
            in_flight=on_each,
            beside=beside,
            disturbance=simulation.Disturbance(slow, jitter=jitter, seed=seed),
            access_points=points,
            access_point_bytes_per_s=bandwidth_bytes_per_s(access_point_bandwidth),
            keep_events=trace is not None,
        )
        if trace is not None:
            write_trace(trace, timeline.events, {rank: device.name for rank, device in enumerate(topology.devices)})
        alone_s = make_plan(graph, topology, PlanOptions("local", allow_swap=True)).predicted_s or 0.0
        answer = _answer(model, graph, chosen, timeline, topology, alone_s)
        answer["precision_note"] = without_instruction(graph, topology) or None
        answer["joules"] = None if beside else joules_per_inference(programs, topology, timeline)
        answer["bytes_read"] = [sum(map(read_bytes, each)) for each in zip(programs, *beside, strict=True)]
        if as_json:
            print(json_text(answer))
        else:
            _show(answer, timeline, cluster.description)
            if answer["precision_note"]:
                print(answer["precision_note"])
        if trace is not None:
            say_written(trace)


def _only_with_inferences(
    scheme: Scheme | None,
    plan: Path | None,
    wire: str,
    inferences: int | None,
    in_flight: int | None,
    trace: Path | None,
    options: PlanOptions,
) -> None:
    """Raises InputError for what a training step does not have."""
    given = {
        f"--scheme {scheme}": scheme not in (None, Scheme.STAR),
        "--plan": plan is not None,
        f"--wire {wire}": wire != str(WIRE),
        "--inferences": inferences is not None and inferences > 1,
        "--in-flight": in_flight is not None and in_flight > 1,
        "--trace": trace is not None,
        "--tiles": options.tiles is not None,
        "--pin": bool(options.pins),
        "--keep-input-home": options.keep_input_home,
        f"--objective {options.objective}": options.objective is not None,
        "--deadline": options.deadline_s is not None,
    }
    for option, used in given.items():
        if used:
            raise InputError(
                f"{option} is for inferences; --train predicts one step, each conv cut as the star cuts it, in fp32"
            )


def _graph(model: str, size: Pair | None, trust: bool) -> LayerGraph:
    from fogconv.frontend.network import network_graph
    from fogconv.zoo.model_request import ModelRequest

    try:
        return network_graph(ModelRequest.for_shapes(model, None if size is None else size.pixels, trust))
    except ImportError as error:
        from fogconv.cli.process.exit_codes import needs

        raise needs("torch", "master") from error


def _points(count: int, topology: Topology) -> dict[int, int]:
    return {rank: rank % count for rank in topology.workers} if count else {}


def _answer(
    model: str, graph: LayerGraph, chosen: Plan, timeline: Timeline, topology: Topology, alone_s: float
) -> dict[str, Any]:
    from fogconv.analysis.forecast import lanes

    latency = statistics.median(timeline.latencies_s)
    return {
        "model": model,
        "scheme": chosen.scheme,
        "workers": len(topology.workers),
        "latency_s": latency,
        "latencies_s": list(timeline.latencies_s),
        "inferences_per_s": len(timeline.latencies_s) / timeline.total_s if timeline.total_s else 0.0,
        "frames_per_s": timeline.frames_per_s,
        "predicted_frames_per_s": chosen.frames_per_s,
        "lanes": [each.as_json() for each in lanes(graph, chosen)],
        "predicted_s": chosen.predicted_s,
        "alone_s": alone_s,
        "speedup": alone_s / latency if latency else 0.0,
        "bytes_busiest_card": max(max(pair) for pair in timeline.card_bytes),
        "busy": [busy / timeline.total_s if timeline.total_s else 0.0 for busy in timeline.busy_s],
    }


def _show(answer: dict[str, Any], timeline: Timeline, hardware_text: str) -> None:
    from rich.console import Console
    from rich.table import Table

    from fogconv.cli.output.paragraph import Paragraph
    from fogconv.hardware.units import show_seconds

    console = Console()
    console.print(Paragraph(hardware_text, style="dim"))
    console.print(
        Paragraph(
            f"{answer['model']}, {answer['scheme']}, {answer['workers']} workers: {show_seconds(answer['latency_s'])} "
            f"({answer['speedup']:.2f}× the master alone, {show_seconds(answer['alone_s'])})"
            + (f"; predicted {show_seconds(answer['predicted_s'])}." if answer["predicted_s"] else ".")
        )
    )
    if len(timeline.latencies_s) > 1:
        console.print(f"{answer['inferences_per_s']:.3g} inferences per second; the megabytes are those of one.")
    if answer["predicted_frames_per_s"] is not None:
        rate, promised = answer["frames_per_s"], answer["predicted_frames_per_s"]
        console.print(f"A stream: {rate:.3g} frames per second once it flows; {promised:.3g} are predicted.")
    if answer["joules"] is not None:
        console.print(f"{answer['joules']:.3g} J per inference, of all ranks together, while they wait too.")
    table = Table(box=None, pad_edge=False, header_style="bold")
    swaps = any(answer["bytes_read"])
    for column in ("rank", "busy", "sent MB", "received MB", *(("read MB",) if swaps else ())):
        table.add_column(column, justify="right")
    read = [*answer["bytes_read"], *[0] * len(answer["busy"])]
    rows = list(zip(answer["busy"], timeline.card_bytes, read, strict=False))
    shown = rows if len(rows) <= 12 else rows[:6]
    for rank, (busy, cards, disk) in enumerate(shown):
        sent = [each / len(timeline.latencies_s) for each in cards]
        figures = [each / 1e6 for each in (*sent, *((disk,) if swaps else ()))]
        table.add_row(str(rank), f"{busy:.0%}", *(f"{figure:.2f}" for figure in figures))
    if swaps:
        console.print(Paragraph("read: weights that are swapped, from the disk, in each inference.", style="dim"))
    console.print(table)
    if len(shown) < len(rows):
        rest = [busy for busy, _, _ in rows[len(shown) :]]
        console.print(f"… and {len(rest)} more, busy {min(rest):.0%} to {max(rest):.0%}.")


__all__ = ["simulate"]

if __name__ == "__main__":
    typer.run(simulate)
