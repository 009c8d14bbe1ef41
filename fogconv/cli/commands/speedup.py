"""``fogconv speedup``: the analytic model for one layer or a whole net."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from fogconv.cli.options.choices import Switch
from fogconv.cli.options.hardware import (
    BandwidthOption,
    LatencyOption,
    PresetOption,
    ProfileOption,
    RateOption,
    WorkersOption,
)
from fogconv.cli.options.model import BatchOption, size_help
from fogconv.cli.options.output import JsonOption
from fogconv.cli.options.panels import OUTPUT, WHAT, WHERE
from fogconv.cli.options.plan import MasterComputesOption, ThresholdOption, TriggerOption, plan_options
from fogconv.cli.options.values import MODEL, SIZE, SWEEP, TIME, Pair, number, output, sizes
from fogconv.cli.output.json_text import json_text
from fogconv.cli.output.written import say_written
from fogconv.cli.process.exit_codes import sentences
from fogconv.errors import InputError
from fogconv.hardware.units import sweep as parse_sweep
from fogconv.ir.geometry import ConvSpec
from fogconv.planning.schemes import Scheme
from fogconv.speedup.calculator import MOST_WORKERS
from fogconv.speedup.calculator import Media as MediaName
from fogconv.speedup.conv_tables import NamedConv, convs, layer_network, network
from fogconv.values import table

SAME = "same"
SUFFIXES = (".png", ".svg", ".html")


def speedup(
    model: Annotated[
        str | None, typer.Option("--model", "-m", parser=MODEL, help="Name of a net, such as vgg16.", rich_help_panel=WHAT)
    ] = None,
    c: Annotated[
        int | None,
        typer.Option(
            parser=number("count", table.CHANNELS), help="Number of input channels of one layer.", rich_help_panel=WHAT
        ),
    ] = None,
    f: Annotated[
        int | None,
        typer.Option(
            parser=number("count", table.CHANNELS),
            help="Number of output channels; by default as many as input channels.",
            rich_help_panel=WHAT,
        ),
    ] = None,
    k: Annotated[
        Pair,
        typer.Option(parser=sizes(table.KERNEL_SIDE), help="Kernel size in pixels, such as 3 or 1x7.", rich_help_panel=WHAT),
    ] = Pair(3, 3),
    hw: Annotated[
        Pair,
        typer.Option(parser=sizes(table.MAP_SIDE), help="Input size in pixels, such as 14 or 14x28.", rich_help_panel=WHAT),
    ] = Pair(14, 14),
    stride: Annotated[
        Pair, typer.Option(parser=sizes(table.KERNEL_SIDE), help="Stride in pixels, such as 1 or 2x1.", rich_help_panel=WHAT)
    ] = Pair(1, 1),
    padding: Annotated[
        Pair | None,
        typer.Option(
            parser=sizes(table.PADDING, SAME),
            help="Padding in pixels, such as 1 or 0x3; by default same.",
            rich_help_panel=WHAT,
        ),
    ] = None,
    dilation: Annotated[
        Pair,
        typer.Option(parser=sizes(table.KERNEL_SIDE), help="Dilation in pixels, such as 1 or 2x2.", rich_help_panel=WHAT),
    ] = Pair(1, 1),
    groups: Annotated[
        int, typer.Option(parser=number("count", table.GROUPS), help="Number of groups of channels.", rich_help_panel=WHAT)
    ] = 1,
    batch: BatchOption = 1,
    size: Annotated[
        Pair | None,
        typer.Option(
            parser=SIZE,
            help=size_help("the net's usual one; any other needs torch"),
            rich_help_panel=WHAT,
        ),
    ] = None,
    preset: PresetOption = None,
    profile: ProfileOption = None,
    rate: RateOption = None,
    bandwidth: BandwidthOption = None,
    latency: LatencyOption = None,
    wake: Annotated[
        str | None,
        typer.Option(
            parser=TIME,
            help="Time that a sleeping radio takes to its first byte, such as 10ms; by default the preset's.",
            rich_help_panel=WHERE,
        ),
    ] = None,
    gamma: Annotated[
        float | None,
        typer.Option(
            parser=number("figure", table.GAMMA),
            help="γ in seconds per MAC; by default the preset's.",
            rich_help_panel=WHERE,
        ),
    ] = None,
    alpha: Annotated[
        float | None,
        typer.Option(
            parser=number("figure", table.LATENCY),
            help="α in seconds per message; by default the preset's.",
            rich_help_panel=WHERE,
        ),
    ] = None,
    beta: Annotated[
        float | None,
        typer.Option(
            parser=number("figure", table.BETA),
            help="β in seconds per element (4 bytes) on a link; by default the preset's.",
            rich_help_panel=WHERE,
        ),
    ] = None,
    message: Annotated[
        int | None,
        typer.Option(
            parser=number("count", table.MESSAGE_ELEMENTS),
            help="M in elements per message; by default each transfer is one message.",
            rich_help_panel=WHERE,
        ),
    ] = None,
    copy: Annotated[
        float | None,
        typer.Option(
            parser=number("figure", table.COPY),
            help="Seconds per element that is cut, joined or summed; by default the preset's.",
            rich_help_panel=WHERE,
        ),
    ] = None,
    joules_per_mac: Annotated[
        float | None,
        typer.Option(
            parser=number("figure", table.JOULES),
            help="Energy in joules per MAC; by default the preset's.",
            rich_help_panel=WHERE,
        ),
    ] = None,
    joules_per_byte: Annotated[
        float | None,
        typer.Option(
            parser=number("figure", table.JOULES),
            help="Energy in joules per byte, both ends together; by default the preset's.",
            rich_help_panel=WHERE,
        ),
    ] = None,
    workers: WorkersOption = None,
    media: Annotated[
        MediaName,
        typer.Option(
            help="Links: unicast sends to each worker; broadcast sends once, as the paper's formula assumes.",
            rich_help_panel=WHERE,
        ),
    ] = MediaName.UNICAST,
    master_computes: MasterComputesOption = Switch.OFF,
    trigger: TriggerOption = None,
    threshold: ThresholdOption = None,
    as_json: JsonOption = False,
    plot: Annotated[
        Path | None,
        typer.Option(
            parser=output(*SUFFIXES), help="Draw a figure into this file: .png, .svg or .html.", rich_help_panel=OUTPUT
        ),
    ] = None,
    sweep_over: Annotated[
        str | None,
        typer.Option(
            "--sweep",
            parser=SWEEP,
            help="Vary one figure: bandwidth=10Mbit..10Gbit, rate=A..B or latency=A..B.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    list_presets: Annotated[
        bool, typer.Option("--presets", help="List the presets and their sources, then end.", rich_help_panel=OUTPUT)
    ] = False,
) -> None:
    """Predict whether a cluster pays: each conv layer's time on the master alone and on n workers (model of Dey et al.,
    CitiFog 2018)."""
    with sentences("fogconv speedup"):
        from fogconv.cli.output.tables import speedup as tables

        if list_presets:
            tables.show_presets()
            return
        pixels = None if size is None else size.pixels
        layers = _layers(model, pixels, c, f, k, hw, stride, padding, dilation, groups, batch)
        from fogconv.cli.options.hardware import hardware
        from fogconv.speedup.calculator import Question, report, sweep
        from fogconv.speedup.trigger import Trigger

        cluster = hardware(
            preset=preset,
            profile=profile,
            rate=rate,
            bandwidth=bandwidth,
            latency=latency,
            wake=wake,
            gamma=gamma,
            alpha=alpha,
            beta=beta,
            message=message,
            copy=copy,
            joules_per_mac=joules_per_mac,
            joules_per_byte=joules_per_byte,
            workers=workers,
        )
        options = plan_options(Scheme.STAR, trigger, threshold, master_computes)
        question = Question(
            cluster.topology, Trigger.parse(options.trigger), options.threshold, options.master_computes, media
        )
        answer = report(layers, question)
        graph = layer_network(layers[0]) if model is None else network(model, size=pixels, batch=batch)
        if graph is not None and question.workers and media is MediaName.UNICAST:
            from fogconv.planning.star import whole_inference

            answer = replace(answer, whole=whole_inference(graph, cluster.topology, options))
        swept = None
        if sweep_over is not None:
            name, least, greatest = parse_sweep(sweep_over)
            swept = (name, sweep(layers, question, name, least, greatest))
        if plot is not None:
            from fogconv.speedup.plots import draw

            draw(plot, model or layers[0].name, layers, answer, swept)
        if as_json:
            print(json_text(answer.json() | tables.sweep_json(swept)))
        else:
            tables.show(model, answer, cluster.description, swept)
        if plot is not None:
            say_written(plot)


def _layers(
    model: str | None,
    size: int | tuple[int, int] | None,
    c: int | None,
    f: int | None,
    k: Pair,
    hw: Pair,
    stride: Pair,
    padding: Pair | None,
    dilation: Pair,
    groups: int,
    batch: int,
) -> tuple[NamedConv, ...]:
    from fogconv.speedup.conv_tables import NamedConv

    if model is not None:
        if c is not None or f is not None:
            raise InputError("a net has its own layers: give --model, or --c and --f, not both")
        return convs(model, size=size, batch=batch)
    if c is None:
        raise InputError("name a layer (--c 256 --f 256 --k 3 --hw 14) or a net (--model vgg16)")
    (height, width), kernel = hw.both, k.both
    if padding is None:
        around = [(d * (size - 1)) for d, size in zip(dilation.both, kernel, strict=True)]
        pads = (around[0] // 2, around[0] - around[0] // 2, around[1] // 2, around[1] - around[1] // 2)
    else:
        vertical, horizontal = padding.both
        pads = (vertical, vertical, horizontal, horizontal)
    spec = ConvSpec(c, c if f is None else f, height, width, kernel, stride.both, pads, dilation.both, groups, batch)
    name = f"{spec.in_channels}→{spec.out_channels}, {kernel[0]}×{kernel[1]}, {height}×{width}"
    return (NamedConv(name, spec),)


__all__ = ["MOST_WORKERS", "speedup"]

if __name__ == "__main__":
    typer.run(speedup)
