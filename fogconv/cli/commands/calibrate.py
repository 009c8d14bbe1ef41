"""``fogconv calibrate``: measure the devices and links of a cluster into a profile."""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fogconv.cli.options.choices import choice
from fogconv.cli.options.connection import InsecureOption, KeysOption
from fogconv.cli.options.values import CLUSTER, NET, output
from fogconv.cli.output.json_text import json_text
from fogconv.cli.output.written import say_written
from fogconv.cli.process.exit_codes import sentences
from fogconv.errors import InputError
from fogconv.hardware.latency.predictors import FITS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fogconv.calibration.fusion.cases import Findings
    from fogconv.cluster.session.session import Session
    from fogconv.hardware.profile import Profile, Stability
    from fogconv.ir.graph import LayerGraph

ALL = "all"
if TYPE_CHECKING:
    PredictorName = str
else:
    PredictorName = choice("PredictorName", (*FITS, ALL))

SAMPLES, MAP_SAMPLES = 150, 54
"""Random convs, and other steps, to fit a predictor on each device, beside steps of published nets, which judge it."""
MODEL = "resnet18"


def calibrate(
    cluster: Annotated[
        str,
        typer.Option(
            parser=CLUSTER, help="Workers as inproc://N, tcp://HOST:PORT,…, mpi:// or a hostfile; by default none."
        ),
    ] = "inproc://0",
    out: Annotated[Path | None, typer.Option("--out", "-o", parser=output(), help="Write the profile to this file.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Measure in under 2 seconds, without spreads.")] = False,
    predictor: Annotated[
        PredictorName | None,
        typer.Option(help="Also time steps of many sizes, and predict by this method, or by the one that is best for nets."),
    ] = None,
    training: Annotated[
        bool,
        typer.Option("--training", help="Also measure what training costs, for `fogconv simulate --train --profile FILE`."),
    ] = False,
    fusion: Annotated[
        bool,
        typer.Option(
            "--fusion",
            help="Also find by test cases which operators are computed as one kernel on this device, by fogconv and by ONNX "
            "Runtime, where it is installed.",
        ),
    ] = False,
    model: Annotated[
        str,
        typer.Option(
            parser=NET, help="Say whether this model's plan would change within the spreads, where there are workers."
        ),
    ] = MODEL,
    keys: KeysOption = None,
    insecure: InsecureOption = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the profile as JSON on stdout.")] = False,
) -> None:
    """Measure γ per kernel class and the rates of other steps on every device, α and β on every link in both directions,
    with their spreads."""
    with sentences("fogconv calibrate"):
        from msgspec.structs import replace

        from fogconv.cluster.connect import connect
        from fogconv.frontend.zoo_graphs import graph as zoo_graph
        from fogconv.hardware.profile import write_profile

        graph = zoo_graph(model)
        begin = time.perf_counter()
        with connect(cluster, keys=keys, insecure=insecure) as session:
            if session.ranks > 1 and not session.workers:
                raise InputError(f"no worker of {cluster} answers")
            found = _in_tiers(_measured(session, quick), cluster)
            scores: dict[str, Any] = {}
            if predictor is not None:
                found, scores = _predicted(session, found, str(predictor))
            if training:
                from fogconv.calibration.training import with_training

                found = with_training(session, found)
        if found.links and found.spreads:
            found = _judged(found, graph, as_json)
        fused = _fused() if fusion else ()
        if fused:
            found = replace(found, fusions={each.runtime: tuple(sorted(each.rules)) for each in fused})
        took = time.perf_counter() - begin
        if out is not None:
            write_profile(found, out)
        if as_json:
            import msgspec

            more: dict[str, Any] = {"predictors": scores} if scores else {}
            more |= {"fusion": {each.runtime: each.as_json() for each in fused}} if fused else {}
            print(json_text(msgspec.to_builtins(found) | more))
        else:
            _show(found, scores, took)
            _show_fused(fused)
        if out is not None:
            say_written(out)


def _measured(session: Session, quick: bool) -> Profile:
    from fogconv.calibration.calibration import calibrate as measure
    from fogconv.calibration.calibration import calibrate_quickly
    from fogconv.hardware.profile import Profile

    if quick:
        return Profile.of(calibrate_quickly(session, refresh=True).topology)
    return measure(session)


def _fused() -> tuple[Findings, ...]:
    from fogconv.calibration.fusion.runtimes import found_here

    return found_here()


def _show_fused(fused: Sequence[Findings]) -> None:
    """Per runtime the pairs that are one kernel and those that are none, and what that is worth for prices of longer
    chains."""
    from rich.console import Console

    from fogconv.calibration.fusion.runtimes import missing
    from fogconv.cli.output.paragraph import Paragraph
    from fogconv.cli.output.tables.table import figures_table
    from fogconv.hardware.units import show_seconds

    console = Console(highlight=False)
    for each in fused:
        table = figures_table("operators", "first", "second", "together", "saved", "one kernel")
        for case in each.cases:
            alone = (show_seconds(case.first_s), show_seconds(case.second_s), show_seconds(case.pair_s))
            table.add_row(f"{case.first} {case.second}", *alone, f"{case.saved:.0%}", "yes" if case.fuses else "")
        console.print(f"\n{each.runtime}, one thread; saved: of the shorter one's time", style="bold")
        console.print(table)
        for trial in each.trials:
            console.print(
                Paragraph(
                    f"{' '.join(trial.operators)}: {show_seconds(trial.measured_s)} measured, "
                    f"{show_seconds(trial.by_kernels_s)} by kernels, {show_seconds(trial.by_operators_s)} by operators alone"
                )
            )
    if fused and missing():
        console.print(Paragraph(f"ONNX Runtime was not tried: {' and '.join(missing())} not installed (the extra onnx)"))


def _in_tiers(profile: Profile, cluster: str) -> Profile:
    """With the tiers that a hostfile gives its workers."""
    from msgspec.structs import replace

    from fogconv.calibration.members import tiers_of

    tiers = tiers_of(cluster)
    devices = (replace(each, tier=tiers.get(rank, "")) for rank, each in enumerate(profile.devices))
    return replace(profile, devices=tuple(devices)) if tiers else profile


def _predicted(session: Session, profile: Profile, name: str) -> tuple[Profile, dict[str, Any]]:
    """The profile with samples of each device and a predictor for them ("all": the one that is best for steps of nets), and,
    per rank and predictor, its score on such steps that it was not fitted to.
    """
    from dataclasses import asdict

    from msgspec.structs import replace

    from fogconv.calibration.devices import device_samples
    from fogconv.calibration.members import machines_of
    from fogconv.calibration.sample_sizes import NET_STEPS, sample_steps
    from fogconv.hardware.latency.predictors import choose, judge

    specs = sample_steps(SAMPLES, MAP_SAMPLES)
    names = tuple(FITS) if name == ALL else (name,)
    scores = {}
    devices = list(profile.devices)
    for rank, samples in device_samples(session, specs, ranks=machines_of(session)).items():
        judges = [sample for sample in samples if sample.spec in NET_STEPS]
        scores[rank] = judge([sample for sample in samples if sample.spec not in NET_STEPS], judges, names)
        devices[rank] = devices[rank].with_samples(samples)
    shown = {f"rank {rank}": {each: asdict(score) for each, score in found.items()} for rank, found in scores.items()}
    return replace(profile, devices=tuple(devices), predictor=choose(list(scores.values()))), shown


def _judged(profile: Profile, graph: LayerGraph, quiet: bool) -> Profile:
    from msgspec.structs import replace

    from fogconv.calibration.calibration import too_fast_to_tell
    from fogconv.choice.noise import stability
    from fogconv.cli.output.console import ProgressLine

    unknown = {f"beta {link.origin}→{link.to}" for link in profile.links if too_fast_to_tell(profile, link)}
    spreads = {name: spread for name, spread in profile.spreads.items() if name not in unknown}
    with ProgressLine(quiet) as progress:
        return replace(profile, stability=stability(graph, profile.topology(), spreads, progress=progress))


def _show(profile: Profile, scores: dict[str, Any], took_s: float) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from fogconv.calibration.calibration import too_fast_to_tell
    from fogconv.cli.output.paragraph import Paragraph
    from fogconv.hardware.units import show_bandwidth, show_seconds

    console = Console()
    table = Table(title="Devices", title_justify="left", box=None, pad_edge=False, header_style="bold")
    for column, justify in (
        ("rank", "right"),
        ("device", "left"),
        ("kernels", "left"),
        ("GMAC/s", "right"),
        ("± spread", "right"),
        *([("plan", "left")] if profile.stability else []),
    ):
        table.add_column(column, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    for rank, device in enumerate(profile.devices):
        for index, (kind, gamma) in enumerate(device.gamma_s_per_mac.items()):
            spread = profile.spreads.get(f"gamma rank {rank} {kind}")
            table.add_row(
                "" if index else str(rank),
                "" if index else escape(device.name),
                escape(kind),
                f"{1e-9 / gamma:.2f}",
                "" if spread is None else f"{spread:.0%}",
                *([_change(profile.stability, f"gamma rank {rank} {kind}")] if profile.stability else []),
            )
    console.print(table)
    for rank, device in enumerate(profile.devices):
        rates = (
            f"{kind} {1e-9 / cost:.1f}"
            for kind, cost in device.map_s_per_byte.items()
            if not kind.endswith("default") and cost > 0
        )
        if device.map_s_per_byte:
            console.print(Paragraph(f"Other steps of rank {rank}, GB/s through memory: {escape(', '.join(rates))}"))
    if profile.links:
        links = Table(title="Links", title_justify="left", box=None, pad_edge=False, header_style="bold")
        for column in ("link", "α", "±", *(["plan"] if profile.stability else []), "bandwidth", "± "):
            links.add_column(column, justify="right", no_wrap=True)
        if profile.stability:
            links.add_column("plan ", no_wrap=True)
        for link in profile.links:
            pair = f"0↔{max(link.origin, link.to)}"
            fast = too_fast_to_tell(profile, link)
            alpha, beta = profile.spreads.get(f"alpha {pair}"), profile.spreads.get(f"beta {link.origin}→{link.to}")
            links.add_row(
                f"{link.origin}→{link.to}",
                show_seconds(link.alpha_s),
                "" if alpha is None else f"{alpha:.0%}",
                *([_change(profile.stability, f"alpha {pair}")] if profile.stability else []),
                "too fast to tell" if fast else show_bandwidth(4 / link.beta_s_per_element),
                "" if beta is None or fast else f"{beta:.0%}",
                *([_change(profile.stability, f"beta {link.origin}→{link.to}")] if profile.stability else []),
            )
        console.print(links)
    if profile.stability:
        console.print(Paragraph(_verdict(profile.stability)))
    for who, found in scores.items():
        shown = "; ".join(
            f"{name} {100 * s['within_10pct']:.0f} % within 10 %, off by {s['factor']:.2f}×, at worst {s['worst']:.1f}×"
            for name, s in found.items()
        )
        console.print(Paragraph(f"{who}: {shown}"))
    if scores:
        console.print(Paragraph(f"The profile predicts steps by {profile.predictor}. {_by_type(profile.predictor, scores)}"))
    worst = max(profile.spreads.values(), default=0.0)
    if worst > 0.2:
        console.print(f"The worst spread is {worst:.0%}: other work was running on these devices or links. Measure again.")
    console.print(f"Measured in {took_s:.1f} s.")


def _by_type(predictor: str, scores: dict[str, Any]) -> str:
    """By how much it is off for each type of step, on average over the devices."""
    found: dict[str, list[float]] = {}
    for each in scores.values():
        for kind, factor in each[predictor]["types"].items():
            found.setdefault(kind, []).append(factor)
    return f"Off by type: {', '.join(f'{kind} {statistics.geometric_mean(f):.2f}×' for kind, f in found.items())}."


def _change(found: Stability, name: str) -> str:
    """Whether the plan changes with one rate: by how many layers."""
    if name not in found.changes:
        return ""
    layers = found.changes[name]
    return "untried" if layers is None else f"{layers} layers" if layers > 1 else "1 layer" if layers else "stays"


def _verdict(found: Stability) -> str:
    if not found.together:
        return f"plan: with the rates at the ends of their spreads, no layer of {found.model} is cut otherwise."
    alone = sum(1 for layers in found.changes.values() if layers)
    text = (
        f"plan: with all rates at the ends of their spreads, up to {found.together} of {found.layers} layers of "
        f"{found.model} are cut otherwise; {alone or 'no'} rate{'s' * (alone != 1)} alone would do so."
    )
    untried = sum(1 for layers in found.changes.values() if layers is None)
    return text + (f" There was no time to try {untried} of them." if untried else "")


if __name__ == "__main__":
    typer.run(calibrate)
