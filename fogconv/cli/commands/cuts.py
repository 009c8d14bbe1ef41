"""``fogconv cuts``: what each place to cut a network between a device and a faster one takes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from fogconv.cli.options.hardware import (
    LatencyOption,
    MemoryOption,
    PresetOption,
    ProfileOption,
    RateOption,
    ReadRateOption,
    SpeedsOption,
    hardware,
    uneven,
)
from fogconv.cli.options.model import ModelArgument, PlannedTrustOption
from fogconv.cli.options.output import JsonOption
from fogconv.cli.options.panels import HOW, OUTPUT, WHERE
from fogconv.cli.options.plan import CUTS_AT, WIRE, AllowSwapOption, CutsOption, WireOption
from fogconv.cli.options.values import BANDWIDTHS, Rates, number, output
from fogconv.cli.output.written import say_written
from fogconv.cli.process.exit_codes import sentences
from fogconv.errors import InputError
from fogconv.planning.scheme_options import LOSSLESS
from fogconv.values import table

SUFFIXES = (".png", ".svg", ".html")


def cuts(
    model: ModelArgument,
    bandwidths: Annotated[
        Rates,
        typer.Option(
            "--bandwidths",
            parser=BANDWIDTHS,
            help="Bandwidths of the link between the two, with commas.",
            rich_help_panel=WHERE,
        ),
    ] = Rates((2.1875e6, 218750, 21875, 2187.5)),
    preset: PresetOption = None,
    profile: ProfileOption = None,
    rate: RateOption = None,
    latency: LatencyOption = None,
    memory: MemoryOption = None,
    read_rate: ReadRateOption = None,
    speeds: SpeedsOption = None,
    where: CutsOption = CUTS_AT,
    wire: WireOption = WIRE,
    allow_swap: AllowSwapOption = False,
    size: Annotated[
        int | None, typer.Option(parser=number("pixels", table.SIDE), help="Input size in pixels.", rich_help_panel=HOW)
    ] = None,
    trust: PlannedTrustOption = False,
    plot: Annotated[
        Path | None,
        typer.Option(
            parser=output(*SUFFIXES), help="Draw the cuts into this file: .png, .svg or .html.", rich_help_panel=OUTPUT
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show what each place to cut a network between the master and one worker takes, over a list of bandwidths."""
    with sentences("fogconv cuts"):
        from fogconv.choice.cuts import at_bandwidth, curve, cuts_json
        from fogconv.choice.cuts import cuts as cuts_of
        from fogconv.frontend.network import network_graph
        from fogconv.zoo.model_request import ModelRequest

        if wire == LOSSLESS:
            raise InputError("--wire lossless is chosen for a plan; name one coding to compare cuts")
        first, *_ = bandwidths.bytes_per_s
        found = hardware(
            preset=preset,
            profile=profile,
            rate=rate,
            bandwidth=None if rate is None else f"{first:g}B/s",
            latency=latency,
            workers=1,
            memory=memory,
            read_rate=read_rate,
        )
        topology = at_bandwidth(uneven(found.topology, speeds), first)
        graph = network_graph(ModelRequest.for_shapes(model, size, trust))
        places = cuts_of(graph, topology, str(where), str(wire), allow_swap=allow_swap)  # type: ignore[arg-type]
        curves = [curve(graph, topology, places, bytes_per_s) for bytes_per_s in bandwidths.bytes_per_s]
        if plot is not None:
            from fogconv.choice.cuts_plot import draw

            draw(plot, graph.name, places, curves)
        if as_json:
            from fogconv.cli.output.json_text import json_text

            print(json_text(cuts_json(graph, places, curves)))
        else:
            from fogconv.cli.output.curves.cuts import print_cuts

            print_cuts(graph.name, places, curves, found.description, out=sys.stdout)
        if plot is not None:
            say_written(plot)


if __name__ == "__main__":
    typer.run(cuts)
