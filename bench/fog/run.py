"""The experiment: torch (or ONNX Runtime) on one node, fogconv on one node, fogconv on all, in turns, in one bed.

All three are loaded and compiled before the quotas apply. Then each in turn runs a few inferences back to back, round
after round, so that a slower machine slows all of them; the first inference of each turn is not counted.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

import msgspec

from bench.fog.boards import ETHERNET, Likeness, board, yardstick
from bench.fog.conversation import Contender, Facts
from bench.fog.job import AloneJob, Baseline, Job
from bench.fog.self_check import Honesty, check
from bench.fog.shaping import Rate
from bench.fog.testbed import Card, FogBed
from fogconv.cluster.protocol.keys import write_keys
from fogconv.errors import InputError
from fogconv.ir.steps import Wire
from fogconv.quantization.precision import check_precision

PORT = 5555
LOAD_TIMEOUT_S = 600.0
RUN_TIMEOUT_S = 900.0
TRANSPORTS = ("zmq", "mpi")
YARDSTICK_RUNS = 5

# One thread for everything, and no page faults because malloc returns large blocks to the system, for both sides.
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "NUMBA_NUM_THREADS": "1",
    "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 33),
    "MALLOC_TOP_PAD_": str(1 << 26),
    # MPI ranks on one machine would use shared memory and bypass the shaped links.
    "UCX_TLS": "tcp,self",
    "UCX_NET_DEVICES": "eth0",
}

Say = Callable[[str], None]


@dataclass(frozen=True)
class Setup:
    """The setup of one experiment. ``cpu``: each node's share of a core; ``repeats``: counted inferences of fogconv on
    all nodes; ``against``: other schemes measured in turns, each with its own workers. ``like``: a board whose ratio of wire
    to compute the links get; ``rate`` does not count then. ``picture``: see `bench.fog.workload.Subject`.
    """

    net: str
    nodes: int = 5
    cpu: tuple[float, ...] = (0.1,)
    rate: str = "1gbit"
    scheme: str = "auto"
    transport: str = "zmq"
    wire: Wire = "fp32"
    secure: bool = False
    repeats: int = 12
    rounds: int = 3
    memory_bytes: int | None = None
    honesty: bool = True
    trace: bool = False
    against: tuple[str, ...] = ()
    size: tuple[int, int] | None = None
    baseline: Baseline = "usual"
    like: str | None = None
    precision: str = "fp32"
    picture: bool = False

    def __post_init__(self) -> None:
        if len(self.cpu) == 1:
            object.__setattr__(self, "cpu", self.cpu * self.nodes)
        if len(self.cpu) != self.nodes:
            raise InputError(f"{len(self.cpu)} CPU shares for {self.nodes} nodes: give one, or one per node")
        check_precision(self.precision)
        if self.baseline not in get_args(Baseline):
            raise InputError(f"there is no baseline {self.baseline!r}; it is one of {', '.join(get_args(Baseline))}")
        if self.like is not None:
            board(self.like)
        if self.transport not in TRANSPORTS:
            raise InputError(f"there is no transport {self.transport!r}; it is one of {', '.join(TRANSPORTS)}")
        if self.rounds < 1 or self.repeats < self.rounds:
            raise InputError(f"{self.repeats} inferences in {self.rounds} rounds: every round needs one at least")


@dataclass
class Tally:
    """One contender's results over the rounds."""

    facts: Facts
    seconds: list[float] = field(default_factory=list)
    last: Facts = field(default_factory=dict)
    cards: list[Card] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)
    elapsed_s: float = 0.0
    inferences: int = 0

    @property
    def median_s(self) -> float:
        return statistics.median(self.seconds)


def run(setup: Setup, say: Say = lambda line: None) -> Facts:
    """One row of the table, in the form that ``python -m bench.fog --json`` prints."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fogconv-bench-")))
        rate = str(ETHERNET) if setup.like else setup.rate
        bed = stack.enter_context(FogBed(setup.nodes, rate, memory_bytes=setup.memory_bytes))
        likeness = None
        if setup.like is not None:
            likeness = shaped_like(setup.like, setup.net, setup.size, setup.cpu, bed, folder, say)
            setup = replace(setup, rate=str(likeness.rate))
        honesty = None
        if setup.honesty:
            say("checking that links and cores run at their rates")
            honesty = check(bed, setup.cpu)
        say("loading the baseline on one node")
        baseline = msgspec.json.encode(AloneJob(setup.net, setup.size, setup.baseline)).decode()
        alone = start(stack, bed, folder, "baseline", [["-m", "bench.fog.alone", folder / "baseline", baseline]])
        say("loading fogconv on one node")
        job = Job(
            setup.net,
            "inproc://0",
            setup.cpu[:1],
            "local",
            precision=setup.precision,
            size=setup.size,
            picture=setup.picture,
        )
        one = start(stack, bed, folder, "one", [_driver(folder / "one", job)])
        clusters = []
        for number, scheme in enumerate((setup.scheme, *setup.against)):
            say(f"loading fogconv on {setup.nodes} nodes, {scheme}")
            name = "all" if not number else f"all, {scheme}"
            commands = cluster_commands(replace(setup, scheme=scheme), bed, folder / name, PORT + number)
            clusters.append(start(stack, bed, folder, name, commands))
        tallies = {alone.name: Tally(alone.receive(LOAD_TIMEOUT_S)["ready"])}
        for contender in (one, *clusters):
            contender.receive(LOAD_TIMEOUT_S)
        say("measuring rates under the quotas")
        for contender in (one, *clusters):
            tallies[contender.name] = Tally(calibrated(bed, contender, setup.cpu))
        bed.set_cpu(setup.cpu)
        each_round = -(-setup.repeats // setup.rounds)
        few = max(1, min(3, each_round // 2))
        for number in range(setup.rounds):
            say(f"round {number + 1} of {setup.rounds}")
            for contender, count in ((alone, few), (one, few), *((it, each_round) for it in clusters)):
                take_turn(bed, contender, count, tallies[contender.name])
        bed.set_cpu(None)
        memory = max((peak_bytes(bed, node) for node in range(1, setup.nodes)), default=0)
    return summary(setup, tallies, memory, honesty, likeness)


def shaped_like(
    board_name: str, net: str, size: tuple[int, int] | None, cpu: Sequence[float], bed: FogBed, folder: Path, say: Say
) -> Likeness:
    """Measure the first node, and shape all links like the board's. ``net``: the one that will run."""
    known = yardstick(board_name, net, size)
    say(f"measuring one node's {known}, for links like {board_name}")
    with ExitStack() as stack:
        job = Job(known, "inproc://0", tuple(cpu[:1]), "local")
        one = start(stack, bed, folder, "yardstick", [_driver(folder / "yardstick", job)])
        one.receive(LOAD_TIMEOUT_S)
        calibrated(bed, one, cpu)
        bed.set_cpu(cpu)
        seconds = one.run(YARDSTICK_RUNS + 1, RUN_TIMEOUT_S)["seconds"][1:]
        bed.set_cpu(None)
    found = Likeness(board_name, known, board(board_name).seconds[known], statistics.median(seconds))
    bed.set_rates(str(found.rate))
    say(str(found))
    return found


def start(stack: ExitStack, bed: FogBed, folder: Path, name: str, commands: Sequence[Sequence[object]]) -> Contender:
    """Start a contender: its last command is the process that answers requests (in node 0); those before are workers, by
    node."""
    contender = stack.enter_context(Contender(folder / name, name))
    environment = os.environ | ENVIRONMENT
    log = stack.enter_context(contender.log.open("w"))
    *workers, driver = [list(map(str, command)) for command in commands]
    for node, command in enumerate(workers, start=1):
        bed.popen(node, command, stdout=log, stderr=log, env=environment, stdin=subprocess.DEVNULL)
    driver = driver if driver[0].startswith("/") else [sys.executable, *driver]
    contender.process = bed.popen(0, driver, stdout=log, stderr=log, env=environment, stdin=subprocess.DEVNULL)
    return contender


def calibrated(bed: FogBed, contender: Contender, shares: Sequence[float]) -> Facts:
    """Let a master measure rates under the quotas, then plan, load and compile without."""
    bed.set_cpu(shares)
    contender.ask({"calibrate": True}, RUN_TIMEOUT_S)
    bed.set_cpu(None)
    ready: Facts = contender.ask({"load": True}, LOAD_TIMEOUT_S)["ready"]
    return ready


def take_turn(bed: FogBed, contender: Contender, count: int, tally: Tally) -> None:
    """One inference to warm up, and ``count`` that are counted."""
    nodes = range(len(bed.nodes))
    cards, used, started = bed.cards(), [bed.usage(node).cpu_s for node in nodes], time.monotonic()
    answer = contender.run(count + 1, RUN_TIMEOUT_S)
    tally.elapsed_s += time.monotonic() - started
    tally.inferences += count + 1
    moved = [now - then for now, then in zip(bed.cards(), cards, strict=True)]
    spent = [bed.usage(node).cpu_s - then for node, then in zip(nodes, used, strict=True)]
    old_cards = tally.cards or [Card(0, 0)] * len(moved)
    tally.cards = [
        Card(a.sent_bytes + b.sent_bytes, a.received_bytes + b.received_bytes) for a, b in zip(old_cards, moved, strict=True)
    ]
    tally.cpu_s = [a + b for a, b in zip(tally.cpu_s or [0.0] * len(spent), spent, strict=True)]
    tally.seconds += answer["seconds"][1:]
    tally.last = answer


def summary(
    setup: Setup, tallies: dict[str, Tally], memory: int, honesty: Honesty | None, likeness: Likeness | None = None
) -> Facts:
    baseline, alone, every = (tallies[name] for name in ("baseline", "one", "all"))
    # A plan may keep everything at home, and a file of facts may know nothing of cards.
    planned = max((max(card) for card in every.facts["card_bytes"]), default=0.0)
    # Kernels at the rate that one node showed in this run, on all nodes; and the plan's bytes over the busiest card.
    compute_s = alone.median_s * setup.cpu[0] / sum(setup.cpu)
    wire_s = planned / Rate.parse(setup.rate).bytes_per_s
    lower = max(compute_s, wire_s)
    allowed = sum(setup.cpu) / setup.cpu[0]
    result: Facts = {
        "net": setup.net,
        "nodes": setup.nodes,
        "cpu": list(setup.cpu),
        "rate": setup.rate,
        "like": None if likeness is None else likeness.as_dict(),
        "scheme": setup.scheme,
        "transport": setup.transport,
        "wire": setup.wire,
        "precision": setup.precision,
        "picture": setup.picture,
        "secure": setup.secure,
        "torch_one_node_s": baseline.median_s,
        "fogconv_one_node_s": alone.median_s,
        "fogconv_s": every.median_s,
        "speedup_vs_torch": baseline.median_s / every.median_s,
        "speedup_vs_one_node": alone.median_s / every.median_s,
        # The speedup that the summed rate of all nodes allows over node 0, on which torch and fogconv alone ran, and the
        # part of it that was reached: speedup ÷ (Σ cpu ÷ cpu of node 0), over torch and over fogconv on that node.
        "speedup_of_summed_rate": allowed,
        "share_of_summed_rate_vs_torch": baseline.median_s / every.median_s / allowed,
        "share_of_summed_rate_vs_one_node": alone.median_s / every.median_s / allowed,
        "predicted_s": every.facts["predicted_s"],
        "lower_bound_s": lower,
        "void": every.median_s < lower,
        "bytes_busiest_card": max((max(c.sent_bytes, c.received_bytes) for c in every.cards), default=0) / every.inferences,
        "bytes_busiest_card_planned": planned,
        "max_worker_memory_mb": memory / 1e6,
        # Weights and maps, without the interpreter.
        "max_worker_footprint_share": max(every.facts["footprint_bytes"][1:], default=0) / alone.facts["footprint_bytes"][0],
        "max_weight_share": every.facts["max_weight_share"],
        "max_abs_error": max(every.facts["max_abs_error"], every.last["max_abs_error"]),
        "max_abs_reference": every.facts["max_abs_reference"],
        "honesty": None if honesty is None else honesty.as_dict(),
        "baseline": baseline.facts["variant"],
        "cpu_used": [used / every.elapsed_s / share for used, share in zip(every.cpu_s, setup.cpu, strict=True)],
        "seconds": {name: [round(value, 4) for value in tally.seconds] for name, tally in tallies.items()},
    }
    result["against"] = {
        scheme: {"fogconv_s": rival.median_s, "predicted_s": rival.facts["predicted_s"]}
        for scheme, rival in ((scheme, tallies[f"all, {scheme}"]) for scheme in setup.against)
    }
    if setup.trace:
        result["trace"] = every.last["trace"][-1]
        result["predicted_trace"] = every.facts["predicted_trace"]
        result["layers"] = [
            layer | {"measured": measured}
            for layer, measured in zip(every.facts["layers"], every.last["layer_s"], strict=True)
        ]
        result["plan"] = {
            key: every.facts[key] for key in ("modes", "steps", "gamma", "message_s", "byte_s", "links", "card_bytes")
        }
    return result


def peak_bytes(bed: FogBed, node: int) -> int:
    """The peak resident size of any process of a node."""
    peak = 0
    for pid in bed.nodes[node].cgroup.members[0].read_text().split():
        status = Path("/proc", pid, "status")
        if status.exists():
            sizes = dict(line.split(":", 1) for line in status.read_text().splitlines())
            peak = max(peak, int(sizes.get("VmHWM", "0 kB").split()[0]) * 1024)
    return peak


def _driver(folder: Path, job: Job) -> list[object]:
    return ["-m", "bench.fog.driver", folder, msgspec.json.encode(job).decode()]


def cluster_commands(setup: Setup, bed: FogBed, folder: Path, port: int = PORT, **job_options: Any) -> list[list[object]]:
    """The commands of fogconv on all nodes: workers, then the master; ``job_options`` are further fields of its Job."""
    keys = make_keys(folder.with_name(f"{folder.name} keys"), bed) if setup.secure else []
    programs = Path(sys.executable).parent
    addresses = [f"tcp://{node.address}:{port}" for node in bed.nodes[1:]]
    cluster = "mpi://" if setup.transport == "mpi" else ",".join(addresses) or "inproc://0"
    job = Job(
        setup.net,
        cluster,
        setup.cpu,
        setup.scheme,
        setup.wire,
        setup.precision,
        size=setup.size,
        keys=str(keys[0]) if keys else "",
        picture=setup.picture,
        **job_options,
    )
    if setup.transport == "mpi":
        hosts = ",".join(node.address for node in bed.nodes)
        launch = [programs / "mpirun", "-launcher", "ssh", "-launcher-exec", bed.agent(), "-hosts", hosts, "-n", setup.nodes]
        return [[*launch, sys.executable, *_driver(folder, job)]]
    workers: list[list[object]] = []
    for rank, address in enumerate(addresses, start=1):
        security = ["--keys", keys[rank]] if keys else ["--insecure"]
        workers.append([programs / "fogconv-worker", "--bind", address, "--threads", 1, *security])
    return [*workers, _driver(folder, job)]


def make_keys(folder: Path, bed: FogBed) -> list[Path]:
    """A folder of keys for every node: the master lists the workers, each worker the master."""
    homes = [folder / str(node.index) for node in bed.nodes]
    pairs = [write_keys(home) for home in homes]
    (homes[0] / "workers").write_text(
        "".join(f"{node.address} {pair.public}\n" for node, pair in zip(bed.nodes[1:], pairs[1:], strict=True))
    )
    for home in homes[1:]:
        (home / "masters").write_text(f"{pairs[0].public}\n")
    return homes
