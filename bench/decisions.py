"""Decisions: how much longer auto's plan takes than the best of the plans that could have been made.

    python -m bench.decisions --quick                             eight simulated clusters
    python -m bench.decisions --json --merge decisions.json       60 clusters, 12 of them measured (root); kept one by one
    python -m bench.decisions --json --merge decisions.json --only simulated

A cluster is a net, two to six devices and their links, all drawn at random. Its plans are those of every named scheme and
of 20 random paths of layouts (`bench.fog.contestants`) which auto did not visit. In a simulated cluster the judge's rates
differ from the planner's by NOISE; in a measured one, on the emulated cluster, the planner has the rates that were
measured, and the judge is the clock. The loss of a cluster is auto's time ÷ the best plan's − 1: asked for is at most 3 % in
the mean.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

from bench.fog.contestants import PATHS, contestants
from bench.fog.run import LOAD_TIMEOUT_S, RUN_TIMEOUT_S, Setup, calibrated, cluster_commands, start
from bench.fog.testbed import FogBed
from fogconv.errors import FogconvError, InputError
from fogconv.frontend.network import network_graph
from fogconv.hardware.topology import Device, Link, Topology
from fogconv.lowering.lower import outline
from fogconv.simulation.simulator import simulate
from fogconv.zoo.model_request import ModelRequest

NETS = ("vgg16", "resnet50", "inception_v3", "mobilenet_v2", "resnet18", "squeezenet1_1", "densenet121", "googlenet")
SIMULATED, MEASURED, QUICK = 48, 12, 8
MEASURED_NETS = ("resnet18", "resnet50", "mobilenet_v2", "squeezenet1_1")
"""Nets whose plans can be loaded one after the other within minutes: they have few weights."""

REPEATS = 3
ASKED = 0.03
TRIED_AGAIN = 4
"""Of a measured cluster, the quickest plans and auto's are measured once more, so that the best is not just a lucky one."""


@dataclass(frozen=True, slots=True)
class Noise:
    """Standard deviations of the logarithm of what the judge has over what the planner has: seconds per MAC and for
    copies of a device, seconds per byte of a link, processor time of a message.

    Measured: the same rates of the same nodes, from one calibration to the next (`bench.model_accuracy`'s cells keep them).
    """

    compute: float = 0.06
    link: float = 0.03
    message: float = 0.3


NOISE = Noise()


def noise_of(cells: Iterable[dict[str, Any]]) -> Noise:
    """The noise in the cells of bench.model_accuracy: γ of one net and the price of a message over one transport, from
    cell to cell. Raises InputError where no two cells can be compared."""
    from math import log

    def spread(name: str, alike: str) -> float:
        groups: dict[str, list[float]] = {}
        for cell in cells:
            if cell[name] > 0 and not cell["loaded"]:
                groups.setdefault(cell[alike], []).append(log(cell[name]))
        off = [value - statistics.fmean(values) for values in groups.values() if len(values) > 1 for value in values]
        if len(off) < 2:
            raise InputError("--noise: no two cells have the same net and transport")
        return statistics.pstdev(off)

    cells = list(cells)
    return replace(NOISE, compute=spread("gamma_s_per_mac", "net"), message=spread("message_s", "transport"))


def cluster(number: int) -> tuple[str, Topology]:
    """The net and the topology of one simulated cluster."""
    chance = random.Random(1000 + number)
    ranks = chance.randint(2, 6)
    rate = 10 ** chance.uniform(9.5, 11.0)
    alike = chance.random() < 0.5
    gigabit = 10 ** chance.uniform(-1.7, 0.0)
    message_s = 10 ** chance.uniform(-5.0, -3.5)
    devices, links = [], {}
    for rank in range(ranks):
        own = rate * (1.0 if alike else 2 ** chance.uniform(-1.5, 1.5))
        gamma = 2 / own
        kinds = {kind: gamma * chance.uniform(0.8, 1.4) for kind in ("direct1x1", "direct", "first")}
        kinds |= {"winograd": gamma * chance.uniform(0.4, 0.9), "depthwise": gamma * chance.uniform(2.0, 5.0)}
        devices.append(
            Device(
                f"device {rank}",
                {"default": gamma, **kinds},
                copy_s_per_byte=3 / own,
                step_s=2e5 / own,
                message_s=message_s * rate / own,
                weight_s_per_byte=chance.uniform(0.0, 2.0) / own,
                send_s_per_byte=3 / own,
                receive_s_per_byte=3 / own,
            )
        )
        if rank:
            link = Link(10 ** chance.uniform(-4.0, -3.0), 8e-9 / gigabit / (1.0 if alike else chance.uniform(0.5, 1.0)))
            links[0, rank] = links[rank, 0] = link
    return chance.choice(NETS), Topology(tuple(devices), links)


def judged(topology: Topology, number: int, noise: Noise) -> Topology:
    """The topology as it is: other than measured by the noise."""
    chance = random.Random(2000 + number)

    def off(sigma: float) -> float:
        return chance.lognormvariate(0.0, sigma)

    devices = []
    for device in topology.devices:
        found = device.scaled(off(noise.compute))
        kinds = {kind: gamma * off(noise.compute) for kind, gamma in found.gamma_s_per_mac.items()}
        devices.append(replace(found, gamma_s_per_mac=kinds, message_s=found.message_s * off(noise.message)))
    links = {pair: replace(link, s_per_byte=link.s_per_byte * off(noise.link)) for pair, link in topology.links.items()}
    return Topology(tuple(devices), links)


def simulated(number: int, paths: int, noise: Noise) -> dict[str, Any]:
    """One simulated cluster: what each plan takes by the judge's rates."""
    net, topology = cluster(number)
    graph = network_graph(ModelRequest.for_shapes(net, None))
    judge = judged(topology, number, noise)
    plans = contestants(graph, topology, number, paths)
    seconds = [
        (name, found.predicted_s or 0.0, simulate(outline(graph, found), judge, keep_events=False).latencies_s[0])
        for name, found in plans
    ]
    return outcome(f"simulated {number}", net, len(topology), seconds)


def measured(number: int) -> dict[str, Any]:
    """One measured cluster: what each plan takes on the emulated one."""
    chance = random.Random(3000 + number)
    nodes = chance.randint(3, 5)
    shares = tuple(chance.choice((0.1, 0.1, 0.2)) for _ in range(nodes))
    rate = chance.choice(("1gbit", "400mbit", "100mbit", "50mbit"))
    net = MEASURED_NETS[number % len(MEASURED_NETS)]
    setup = Setup(net, nodes, shares, rate)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fogconv-decisions-")))
        bed = stack.enter_context(FogBed(nodes, rate))
        master = start(stack, bed, folder, "all", cluster_commands(setup, bed, folder / "all", contest=number))
        master.receive(LOAD_TIMEOUT_S)
        facts = calibrated(bed, master, shares)

        def seconds(plan: int) -> list[float]:
            master.ask({"run": [plan, REPEATS]}, LOAD_TIMEOUT_S)  # loads and compiles, without quotas
            bed.set_cpu(shares)
            answer = master.ask({}, RUN_TIMEOUT_S)
            bed.set_cpu(None)
            found: list[float] = answer["seconds"]
            return found

        times = [seconds(plan) for plan in range(len(facts["plans"]))]
        order = sorted(range(len(times)), key=lambda plan: statistics.median(times[plan]))
        for plan in dict.fromkeys([0, *order[:TRIED_AGAIN]]):
            times[plan] += seconds(plan)
    found = [
        (name, predicted, statistics.median(each)) for (name, predicted), each in zip(facts["plans"], times, strict=True)
    ]
    return outcome(f"measured {number}", f"{net}, {rate}, {shares}", nodes, found)


def outcome(name: str, net: str, ranks: int, seconds: list[tuple[str, float, float]]) -> dict[str, Any]:
    best = min(seconds, key=lambda each: each[2])
    auto_s = next(taken for plan, _, taken in seconds if plan == "auto")
    return {
        "cluster": name,
        "net": net,
        "ranks": ranks,
        "auto_s": auto_s,
        "best": best[0],
        "best_s": best[2],
        "loss": auto_s / best[2] - 1,
        "plans": [{"plan": plan, "predicted_s": predicted, "taken_s": taken} for plan, predicted, taken in seconds],
    }


def verdict(clusters: list[dict[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {"asked": ASKED}
    for kind in ("simulated", "measured"):
        losses = [each["loss"] for each in clusters if each["cluster"].startswith(kind)]
        if losses:
            worst = max((each for each in clusters if each["cluster"].startswith(kind)), key=lambda each: each["loss"])
            found[kind] = {
                "clusters": len(losses),
                "mean_loss": statistics.fmean(losses),
                "worst_loss": worst["loss"],
                "worst": f"{worst['cluster']}: {worst['net']}, the best was {worst['best']}",
                "best_was": {
                    name: sum(_kind(each) == name for each in clusters if each["cluster"].startswith(kind))
                    for name in sorted({_kind(each) for each in clusters})
                },
            }
    if clusters:
        found["mean_loss"] = statistics.fmean(each["loss"] for each in clusters)
    return found


def _kind(each: dict[str, Any]) -> str:
    return "a random path" if each["best"].startswith("path") else str(each["best"])


def kept(file: Path | None) -> list[dict[str, Any]]:
    """Raises InputError for another file."""
    if file is None or not file.exists():
        return []
    try:
        found = json.loads(file.read_bytes())["clusters"]
        verdict(found)
        return list(found)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"--merge {file}: it is not a result of bench.decisions --json ({error})") from error


def line(each: dict[str, Any]) -> str:
    return (
        f"{each['cluster']:13s} {each['net'][:40]:40s} {each['ranks']} ranks: auto {each['auto_s'] * 1e3:7.1f} ms, "
        f"best {each['best_s'] * 1e3:7.1f} ({each['best']}), loss {each['loss']:5.1%}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help=f"{QUICK} simulated clusters and few paths")
    parser.add_argument("--only", choices=("simulated", "measured"), help="clusters of one kind")
    parser.add_argument("--merge", type=Path, help="a file of clusters: those in it are not tried again, new ones are added")
    parser.add_argument("--paths", type=int, default=PATHS, help=f"random paths per simulated cluster (default: {PATHS})")
    parser.add_argument("--noise", type=Path, help="a result of bench.model_accuracy --json: the noise of its rates")
    parser.add_argument("--seconds", type=float, help="begin no cluster after so many seconds")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, _terminated)
    try:
        clusters = tried(options)
    except FogconvError as error:
        print(f"bench.decisions: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    if options.json:
        print(json.dumps({"clusters": clusters, "verdict": verdict(clusters)}))
        return
    for each in clusters:
        print(line(each))
    print(json.dumps(verdict(clusters), indent=1))


def tried(options: argparse.Namespace) -> list[dict[str, Any]]:
    clusters = kept(options.merge)
    done = {each["cluster"] for each in clusters}
    noise = NOISE
    if options.noise is not None:
        from bench.model_accuracy import kept as cells_of

        noise = noise_of(cells_of(options.noise)["cells"])
    paths = min(4, options.paths) if options.quick else options.paths
    jobs = []
    if options.only != "measured":
        jobs += [("simulated", number) for number in range(QUICK if options.quick else SIMULATED)]
    if options.only != "simulated" and not options.quick:
        jobs += [("measured", number) for number in range(MEASURED)]
    until = time.monotonic() + options.seconds if options.seconds else float("inf")
    for kind, number in jobs:
        if f"{kind} {number}" in done or time.monotonic() > until:
            continue
        clusters.append(simulated(number, paths, noise) if kind == "simulated" else measured(number))
        print(line(clusters[-1]), file=sys.stderr, flush=True)
        if options.merge is not None:
            part = options.merge.with_name(options.merge.name + ".part")
            part.write_text(json.dumps({"clusters": clusters}))
            part.replace(options.merge)
    return clusters


def _terminated(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)


if __name__ == "__main__":
    main()
