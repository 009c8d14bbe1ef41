"""``fogconv calibrate``: measure the devices and links of a cluster into a profile."""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fogconv.cli.choices import choice
from fogconv.cli.connection_options import InsecureOption, KeysOption
from fogconv.cli.option_values import CLUSTER, output
from fogconv.cli.output.json_text import json_text
from fogconv.cli.process.exit_codes import sentences
from fogconv.errors import InputError
from fogconv.hardware.latency_models import FITS

if TYPE_CHECKING:
    from fogconv.cluster.session.session import Session
    from fogconv.hardware.profile import Profile

ALL = "all"
if TYPE_CHECKING:
    PredictorName = str
else:
    PredictorName = choice("PredictorName", (*FITS, ALL))

SAMPLES, MAP_SAMPLES = 150, 54
"""Random convs, and other steps, to fit a predictor on each device, beside steps of published nets, which judge it."""


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
    keys: KeysOption = None,
    insecure: InsecureOption = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the profile as JSON on stdout.")] = False,
) -> None:
    """Measure γ per kernel class on every device, α and β on every link in both directions, with their spreads."""
    with sentences("fogconv calibrate"):
        from fogconv.cluster.connect import connect
        from fogconv.hardware.profile import write_profile

        begin = time.perf_counter()
        with connect(cluster, keys=keys, insecure=insecure) as session:
            if session.ranks > 1 and not session.workers:
                raise InputError(f"no worker of {cluster} answers")
            found = _measured(session, quick)
            scores: dict[str, Any] = {}
            if predictor is not None:
                found, scores = _predicted(session, found, str(predictor))
        took = time.perf_counter() - begin
        if out is not None:
            write_profile(found, out)
        if as_json:
            import msgspec

            print(json_text(msgspec.to_builtins(found) | ({"predictors": scores} if scores else {})))
        else:
            _show(found, scores, took)
        if out is not None:
            print(f"wrote {out}", file=sys.stderr)


def _measured(session: Session, quick: bool) -> Profile:
    from fogconv.calibration.calibration import calibrate as measure
    from fogconv.calibration.calibration import calibrate_quickly
    from fogconv.hardware.profile import Profile

    if quick:
        return Profile.of(calibrate_quickly(session, refresh=True).topology)
    return measure(session)


def _predicted(session: Session, profile: Profile, name: str) -> tuple[Profile, dict[str, Any]]:
    """The profile with samples of each device and a predictor for them ("all": the one that is best for steps of nets), and,
    per rank and predictor, its score on such steps that it was not fitted to.
    """
    from dataclasses import asdict

    from msgspec.structs import replace

    from fogconv.calibration.devices import device_samples
    from fogconv.calibration.members import machines_of
    from fogconv.calibration.sample_sizes import NET_STEPS, sample_steps
    from fogconv.hardware.latency_models import choose, judge

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
    ):
        table.add_column(column, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    for rank, device in enumerate(profile.devices):
        for index, (kind, gamma) in enumerate(device.gamma_s_per_mac.items()):
            spread = profile.spreads.get(f"gamma rank {rank} {kind}")
            shown = "" if spread is None else f"{spread:.0%}"
            table.add_row(
                "" if index else str(rank), "" if index else escape(device.name), escape(kind), f"{1e-9 / gamma:.2f}", shown
            )
    console.print(table)
    for rank, device in enumerate(profile.devices):
        rates = (
            f"{kind} {1e-9 / cost:.1f}" for kind, cost in device.map_s_per_byte.items() if kind != "default" and cost > 0
        )
        if device.map_s_per_byte:
            console.print(Paragraph(f"Other steps of rank {rank}, GB/s through memory: {escape(', '.join(rates))}"))
    if profile.links:
        links = Table(title="Links", title_justify="left", box=None, pad_edge=False, header_style="bold")
        for column in ("link", "α", "±", "bandwidth", "± "):
            links.add_column(column, justify="right", no_wrap=True)
        for link in profile.links:
            pair = f"0↔{max(link.origin, link.to)}"
            fast = too_fast_to_tell(profile, link)
            alpha, beta = profile.spreads.get(f"alpha {pair}"), profile.spreads.get(f"beta {link.origin}→{link.to}")
            links.add_row(
                f"{link.origin}→{link.to}",
                show_seconds(link.alpha_s),
                "" if alpha is None else f"{alpha:.0%}",
                "too fast to tell" if fast else show_bandwidth(4 / link.beta_s_per_element),
                "" if beta is None or fast else f"{beta:.0%}",
            )
        console.print(links)
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


if __name__ == "__main__":
    typer.run(calibrate)
