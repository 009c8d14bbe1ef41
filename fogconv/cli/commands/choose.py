"""``fogconv choose``: which of the zoo's models fits a deadline, a memory limit, an energy budget."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from fogconv.cli.options.connection import InsecureOption, KeysOption
from fogconv.cli.options.hardware import (
    BandwidthOption,
    LatencyOption,
    MeasureOption,
    PresetOption,
    ProfileOption,
    RanksOption,
    RateOption,
    measured_or_described,
)
from fogconv.cli.options.output import JsonOption
from fogconv.cli.options.panels import HOW, WHAT, WHERE
from fogconv.cli.options.values import CLUSTER, DEADLINE, ENERGY, MEMORY, NET, number
from fogconv.cli.process.exit_codes import sentences
from fogconv.errors import InputError
from fogconv.planning.schemes import Scheme
from fogconv.values import table

if TYPE_CHECKING:
    from fogconv.hardware.topology import Topology

MOST = 10


def choose(
    models: Annotated[
        list[str] | None, typer.Argument(parser=NET, help="Names of models to choose from; by default the whole zoo.")
    ] = None,
    deadline: Annotated[
        str | None,
        typer.Option(parser=DEADLINE, help="Longest time per inference, such as 200ms.", rich_help_panel=WHAT),
    ] = None,
    memory: Annotated[
        int | None,
        typer.Option(
            parser=MEMORY,
            help="Greatest memory of fogconv on any one device in bytes, such as 500M.",
            rich_help_panel=WHAT,
        ),
    ] = None,
    energy: Annotated[
        str | None,
        typer.Option(
            parser=ENERGY,
            help="Greatest energy per inference of all devices together, such as 1J.",
            rich_help_panel=WHAT,
        ),
    ] = None,
    cluster: Annotated[
        str | None,
        typer.Option(
            parser=CLUSTER,
            help="Measure the devices and links of this cluster: inproc://N, tcp://HOST:PORT,… or a hostfile.",
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
    scheme: Annotated[
        Scheme | None,
        typer.Option(
            help="How the work is split; by default by rows, or any other way where rows do not fit into the memory or just "
            "miss another limit.",
            rich_help_panel=HOW,
        ),
    ] = None,
    most: Annotated[
        int,
        typer.Option(
            parser=number("count", table.MODELS),
            help="Number of models that meet the limits, after which no less accurate ones are tried.",
            rich_help_panel=HOW,
        ),
    ] = MOST,
    every: Annotated[bool, typer.Option("--all", help="Try all models, which takes minutes.", rich_help_panel=HOW)] = False,
    as_json: JsonOption = False,
) -> None:
    """Rank the zoo's models: those that meet the limits by their published accuracy, with predicted time, memory and
    energy."""
    with sentences("fogconv choose"):
        from fogconv.choice.candidate import Limits
        from fogconv.choice.ranking import ranked
        from fogconv.cli.output.console import ProgressLine
        from fogconv.cli.output.tables.choice import choice_json, print_choice
        from fogconv.frontend.zoo_graphs import names
        from fogconv.hardware.units import deadline_s, joules

        found = measured_or_described(
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
        )
        limits = Limits(
            None if deadline is None else deadline_s(deadline), memory, None if energy is None else joules(energy)
        )
        if energy is not None:
            _check_energy(found.topology)
        with ProgressLine(quiet=as_json) as progress:
            ranking = ranked(
                models or names(),
                found.topology,
                limits,
                most=None if every else most,
                scheme=None if scheme is None else str(scheme),
                progress=lambda name, done, meeting: progress(
                    f"{name}: model {done + 1}, {meeting} of the earlier ones meet the limits"
                ),
            )
        if as_json:
            from fogconv.cli.output.json_text import json_text

            rates = {"rates": [source.as_json() for source in found.sources]} if found.sources else {}
            print(json_text(choice_json(ranking, limits, found.topology) | rates))
        else:
            print_choice(ranking, limits, found.topology, found.description)


def _check_energy(topology: Topology) -> None:
    from fogconv.hardware.energy import without_energy

    unknown = without_energy(topology)
    if unknown:
        device = topology.devices[unknown[0]].name
        raise InputError(
            f"--energy: the power of rank {unknown[0]} ({device}) is not known; use a --preset, or write busy_watts and "
            "idle_watts of each device into a profile of `fogconv calibrate` and give that"
        )


if __name__ == "__main__":
    typer.run(choose)
