"""Self-check of the emulated cluster: measured link and CPU rates against the nominal ones, before any experiment."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.fog.cgroup import quota_and_period_us
from bench.fog.testbed import FogBed
from fogconv.errors import ClusterError

PROBE = Path(__file__).with_name("probe.py")
PORT = 5201


@dataclass(frozen=True)
class Honesty:
    """Measured ÷ nominal; 1 is exact.

    ``links``  node 0 to each other node: payload bytes of TCP per second (0.95 without the headers)
    ``cpu``    CPU time that each node got under its quota, all nodes busy at once
    ``work``   work that each did in that time, against one node without a quota just before and after: where this differs
               and ``cpu`` is not, the cores themselves changed speed (other load on the machine)
    ``slices`` the time that each ran between two pauses, against the quota of one period (see `bench.fog.ticker`)
    """

    links: tuple[float, ...]
    cpu: tuple[float, ...]
    work: tuple[float, ...]
    slices: tuple[float, ...]

    def within(self, tolerance: float) -> bool:
        """Whether links and CPU time are as configured."""
        return all(abs(ratio - 1) <= tolerance for ratio in self.links + self.cpu)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def measure_link(bed: FogBed, sender: int, receiver: int, duration_s: float = 0.5) -> float:
    """Bytes per second of TCP payload from one node to another. Raises ClusterError when nothing gets through."""
    sink = bed.popen(receiver, _probe("sink", PORT), stdout=subprocess.PIPE, text=True)
    assert sink.stdout is not None
    sink.stdout.readline()
    source = bed.popen(sender, _probe("source", bed.nodes[receiver].address, PORT, duration_s))
    output, _ = sink.communicate(timeout=duration_s + 30)
    source.wait()
    count, seconds = (float(word) for word in output.split() or (0, 0))
    if not seconds:
        raise ClusterError(f"no bytes came from node {sender} to node {receiver} of the emulated cluster")
    return count / seconds


@dataclass(frozen=True, slots=True)
class Effort:
    """Per second: units of work done, CPU time used, and pauses."""

    work_per_s: float
    cpu_per_s: float
    pauses_per_s: float


def measure_effort(bed: FogBed, nodes: Sequence[int], duration_s: float = 1.0, slack_s: float = 0.5) -> list[Effort]:
    """The work and usage of each node in ``duration_s``, all busy at the same time.

    They start up to ``slack_s`` apart (a node of 0.05 core takes half a second for an interpreter); if that was too
    little, more is allowed.
    """
    works_s = duration_s + slack_s
    running = [bed.popen(node, _probe("work", works_s), stdout=subprocess.PIPE, text=True) for node in nodes]
    for process in running:
        assert process.stdout is not None
        process.stdout.readline()
    before, started = [bed.usage(node).cpu_s for node in nodes], time.monotonic()
    time.sleep(duration_s)
    after, elapsed = [bed.usage(node).cpu_s for node in nodes], time.monotonic() - started
    all_busy = all(process.poll() is None for process in running)
    done = [[float(word) / works_s for word in process.communicate(timeout=works_s + 60)[0].split()] for process in running]
    if not all_busy:
        return measure_effort(bed, nodes, duration_s, 2 * slack_s)
    used = [(end - begin) / elapsed for begin, end in zip(before, after, strict=True)]
    return [Effort(work, cpu, pauses) for (work, pauses), cpu in zip(done, used, strict=True)]


def check(bed: FogBed, shares: Sequence[float], link_s: float = 0.5, work_s: float = 2.0) -> Honesty:
    """Measure the bed; its CPU limits are lifted afterwards."""
    bed.set_cpu(None)
    links = tuple(measure_link(bed, 0, node, link_s) / bed.rate.bytes_per_s for node in range(1, len(bed.nodes)))
    alone = measure_effort(bed, [0], work_s / 2)
    bed.set_cpu(shares)
    limited = measure_effort(bed, range(len(bed.nodes)), work_s)
    bed.set_cpu(None)
    alone += measure_effort(bed, [0], work_s / 2)
    full = sum(effort.work_per_s for effort in alone) / len(alone)
    return Honesty(
        links,
        tuple(effort.cpu_per_s / share for effort, share in zip(limited, shares, strict=True)),
        tuple(effort.work_per_s / full / share for effort, share in zip(limited, shares, strict=True)),
        tuple(
            effort.cpu_per_s / max(effort.pauses_per_s, 1.0) / (quota_and_period_us(share)[0] * 1e-6)
            for effort, share in zip(limited, shares, strict=True)
        ),
    )


def _probe(*words: object) -> list[str]:
    return [sys.executable, "-I", "-S", str(PROBE), *map(str, words)]
