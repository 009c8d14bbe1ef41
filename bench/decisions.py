"""Decisions: how much longer auto's plan takes than the best of the plans that could have been made.

    python -m bench.decisions --quick                             eight simulated clusters
    python -m bench.decisions --json --merge decisions.json       60 clusters, 12 of them measured (root); kept one by one
    python -m bench.decisions --json --merge decisions.json --only simulated
    python -m bench.decisions --json --merge decisions.json --only measured --seconds 900

A cluster is a net, two to six devices and their links, all drawn at random. Its plans are those of every named scheme and
of 20 random paths of layouts (`bench.fog.contestants`) which auto did not visit. In a simulated cluster the judge's rates
differ from the planner's by NOISE; in a measured one, on the emulated cluster, the planner has the rates that were
measured, and the judge is the clock. The loss of a cluster is auto's time ÷ the best plan's − 1: asked for is at most 3 % in
the mean.

Measured clusters are tried in the order of what they cost, and none is begun that would not be done within --seconds. Each
plan is run once; the quickest ones then run in turns with two copies of auto's plan, and only these turns count. The noise
of a cluster is how much the two copies differ, and a loss below it is none that could be seen.
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
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any

from bench.fog.contestants import PATHS, contestants
from bench.fog.run import LOAD_TIMEOUT_S, RUN_TIMEOUT_S, Setup, calibrated, cluster_commands, start
from bench.fog.testbed import FogBed
from fogconv.errors import FogconvError, InputError
from fogconv.frontend.network import network_graph
from fogconv.hardware.topology import Device, Link, Topology
from fogconv.ir.layers import Conv
from fogconv.lowering.lower import outline
from fogconv.simulation.simulator import simulate
from fogconv.zoo.model_request import ModelRequest

NETS = ("vgg16", "resnet50", "inception_v3", "mobilenet_v2", "resnet18", "squeezenet1_1", "densenet121", "googlenet")
SIMULATED, MEASURED, QUICK = 48, 12, 8
MEASURED_NETS = ("resnet18", "resnet50", "mobilenet_v2", "squeezenet1_1")
"""Nets whose plans can be loaded one after the other within minutes: they have few weights."""

ASKED = 0.03
AUTO, AGAIN = "auto", "auto, again"
FINALISTS, TURNS, TURN_S = 4, 3, 1.0
"""Of a measured cluster, so many of the quickest plans and two copies of auto's run in so many turns of about so long each:
the best of many single readings is just a lucky one."""
LEAST_REPEATS, MOST_REPEATS = 3, 20
LOAD_S = 0.5
"""Of a plan, per hundred layers, roughly."""
RATE_MACS_PER_S = 20e9
"""Of a whole core, roughly."""


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


def drawn(number: int) -> Setup:
    """The net, the nodes and the links of one measured cluster."""
    chance = random.Random(3000 + number)
    nodes = chance.randint(3, 5)
    shares = tuple(chance.choice((0.1, 0.1, 0.2)) for _ in range(nodes))
    rate = chance.choice(("1gbit", "400mbit", "100mbit", "50mbit"))
    return Setup(MEASURED_NETS[number % len(MEASURED_NETS)], nodes, shares, rate)


@cache
def cost_s(number: int) -> float:
    """Roughly what measuring a cluster takes."""
    setup = drawn(number)
    graph = network_graph(ModelRequest.for_shapes(setup.net, None))
    macs = sum(layer.spec.macs for layer in graph.layers if isinstance(layer, Conv))
    inference_s = 2 * macs / RATE_MACS_PER_S / sum(setup.cpu)
    finals = TURNS * (FINALISTS + 2)
    run_s = PATHS * 2 * inference_s + finals * max(TURN_S, LEAST_REPEATS * inference_s)
    return LOAD_S * len(graph.layers) / 100 * (PATHS + finals) + run_s


def cheapest_first(numbers: Iterable[int]) -> list[int]:
    return sorted(numbers, key=lambda number: (cost_s(number), number))


def measured(number: int) -> dict[str, Any]:
    """One measured cluster: what each plan takes on the emulated one."""
    setup = drawn(number)
    begin = time.monotonic()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fogconv-decisions-")))
        bed = stack.enter_context(FogBed(setup.nodes, setup.rate))
        master = start(stack, bed, folder, "all", cluster_commands(setup, bed, folder / "all", contest=number))
        master.receive(LOAD_TIMEOUT_S)
        facts = calibrated(bed, master, setup.cpu)

        def seconds(plan: int, repeats: int) -> list[float]:
            master.ask({"run": [plan, repeats]}, LOAD_TIMEOUT_S)  # loads and compiles, without quotas
            bed.set_cpu(setup.cpu)
            answer = master.ask({}, RUN_TIMEOUT_S)
            bed.set_cpu(None)
            found: list[float] = answer["seconds"]
            return found

        plans = [(str(name), float(predicted), int(same)) for name, predicted, same in facts["plans"]]
        once = {plan: seconds(plan, 1)[0] for plan, (_, _, same) in enumerate(plans) if same == plan}
        rivals = sorted((plan for plan in once if plan), key=once.__getitem__)[:FINALISTS]
        order = [(AUTO, 0), *((plans[plan][0], plan) for plan in rivals), (AGAIN, 0)]
        turns: dict[str, list[float]] = {name: [] for name, _ in order}
        for turn in range(TURNS):
            for name, plan in order if turn % 2 == 0 else reversed(order):
                repeats = min(MOST_REPEATS, max(LEAST_REPEATS, round(TURN_S / once[plan])))
                turns[name] += seconds(plan, repeats)
    found = [(name, predicted, once[same]) for name, predicted, same in plans]
    what = f"{setup.net}, {setup.rate}, {setup.cpu}"
    return outcome(f"measured {number}", what, setup.nodes, found, turns) | {"seconds": time.monotonic() - begin}


def outcome(
    name: str,
    net: str,
    ranks: int,
    seconds: Sequence[tuple[str, float, float]],
    turns: Mapping[str, Sequence[float]] | None = None,
) -> dict[str, Any]:
    """``seconds``: (plan, predicted, taken). ``turns``: the seconds of the finalists and of AGAIN, a second copy of auto's
    plan; then only they count, and their noise is known."""
    taken = {plan: each for plan, _, each in seconds}
    noise = 0.0
    if turns:
        taken = {plan: statistics.median(each) for plan, each in turns.items()}
        noise = abs(taken[AUTO] / taken.pop(AGAIN) - 1)
        taken[AUTO] = statistics.median([*turns[AUTO], *turns[AGAIN]])
    best = min(taken, key=taken.__getitem__)
    return {
        "cluster": name,
        "net": net,
        "ranks": ranks,
        "auto_s": taken[AUTO],
        "best": best,
        "best_s": taken[best],
        "loss": taken[AUTO] / taken[best] - 1,
        "noise": noise,
        "plans": [{"plan": plan, "predicted_s": predicted, "taken_s": each} for plan, predicted, each in seconds],
        "turns": {plan: list(each) for plan, each in (turns or {}).items()},
    }


def verdict(clusters: Sequence[dict[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {"asked": ASKED}
    for kind in ("simulated", "measured"):
        those = [each for each in clusters if each["cluster"].startswith(kind)]
        if not those:
            continue
        worst = max(those, key=lambda each: float(each["loss"]))
        found[kind] = {
            "clusters": len(those),
            "mean_loss": statistics.fmean(each["loss"] for each in those),
            "worst_loss": worst["loss"],
            "worst": f"{worst['cluster']}: {worst['net']}, the best was {worst['best']}",
            "best_was": dict(sorted(Counter(_kind(each) for each in those).items())),
        }
        if kind == "measured":
            found[kind] |= {
                "mean_noise": statistics.fmean(each["noise"] for each in those),
                "losses_within_their_noise": sum(each["loss"] <= each["noise"] for each in those),
                "mean_loss_beyond_noise": statistics.fmean(max(0.0, each["loss"] - each["noise"]) for each in those),
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
        found = [{"noise": 0.0} | each for each in json.loads(file.read_bytes())["clusters"]]
        verdict(found)
        return found
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"--merge {file}: it is not a result of bench.decisions --json ({error})") from error


def line(each: dict[str, Any]) -> str:
    noise = f" (two copies of auto's plan: {each['noise']:.1%})" if each["cluster"].startswith("measured") else ""
    return (
        f"{each['cluster']:13s} {each['net'][:40]:40s} {each['ranks']} ranks: auto {each['auto_s'] * 1e3:7.1f} ms, "
        f"best {each['best_s'] * 1e3:7.1f} ({each['best']}), loss {each['loss']:5.1%}{noise}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help=f"{QUICK} simulated clusters and few paths")
    parser.add_argument("--only", choices=("simulated", "measured"), help="clusters of one kind")
    parser.add_argument("--merge", type=Path, help="a file of clusters: those in it are not tried again, new ones are added")
    parser.add_argument("--paths", type=int, default=PATHS, help=f"random paths per simulated cluster (default: {PATHS})")
    parser.add_argument("--noise", type=Path, help="a result of bench.model_accuracy --json: the noise of its rates")
    parser.add_argument("--seconds", type=float, help="begin no cluster that would not be done after so many seconds")
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
        jobs += [("measured", number) for number in cheapest_first(range(MEASURED))]
    until = time.monotonic() + options.seconds if options.seconds else float("inf")
    pace = 1.0
    for kind, number in jobs:
        needed_s = pace * cost_s(number) if kind == "measured" else 0.0
        if f"{kind} {number}" in done or time.monotonic() + needed_s > until:
            continue
        clusters.append(simulated(number, paths, noise) if kind == "simulated" else measured(number))
        print(line(clusters[-1]), file=sys.stderr, flush=True)
        if kind == "measured":
            pace = clusters[-1]["seconds"] / cost_s(number)
        if options.merge is not None:
            part = options.merge.with_name(options.merge.name + ".part")
            part.write_text(json.dumps({"clusters": clusters}))
            part.replace(options.merge)
    return clusters


def _terminated(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)


if __name__ == "__main__":
    main()
