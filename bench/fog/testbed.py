"""FogBed: n nodes on one machine, each with its own network card, share of a core and memory limit.

    node 0      node 1      node 2        a network namespace and a control group each
     eth0        eth0        eth0         10.77.0.10, .11, .12 …, shaped
      |           |           |           veth pairs
      p0          p1          p2          shaped
     ═══════════ br0 ═══════════          the switch, in a namespace of its own

The machine's own network is not touched: no address, route or device appears outside the namespaces. Root only.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import shutil
import stat
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from bench.fog.cgroup import Cgroup, Usage, find_cgroup
from bench.fog.shaping import Rate, reshape, shape
from bench.fog.ticker import Tickers
from fogconv.errors import ClusterError, DependencyError, InputError

RUN = Path("/run/fogconv-bed")
ENTER = Path(__file__).with_name("enter.py")
BRIDGE_FILTERS = Path("/proc/sys/net/bridge")
MOST_NODES = 200


@dataclass(frozen=True)
class Node:
    """``address`` is its IPv4 address, ``port`` its end at the switch."""

    index: int
    name: str
    address: str
    netns: str
    port: str
    cgroup: Cgroup


@dataclass(frozen=True, slots=True)
class Card:
    """Bytes through a node's network card so far, headers included."""

    sent_bytes: int
    received_bytes: int

    def __sub__(self, earlier: Card) -> Card:
        return Card(self.sent_bytes - earlier.sent_bytes, self.received_bytes - earlier.received_bytes)


class FogBed:
    """The emulated cluster. It exists inside a ``with`` block and is always removed after it.

    ``cpu`` gives shares of a core (one figure for all, one per node, or None for no limit yet); ``memory_bytes`` likewise.
    Clusters of several processes are separate; the next one removes the remains of a killed process. Raises
    DependencyError without root or iproute2, InputError for impossible sizes.
    """

    def __init__(
        self,
        nodes: int,
        rate: str = "1gbit",
        cpu: float | Sequence[float] | None = None,
        memory_bytes: int | Sequence[int] | None = None,
    ) -> None:
        if not 1 <= nodes <= MOST_NODES:
            raise InputError(f"{nodes} nodes: a bed has 1 to {MOST_NODES}")
        self.rate = Rate.parse(rate)
        self._cpu = _per_node(cpu, nodes, "CPU shares")
        self._memory = _per_node(memory_bytes, nodes, "memory limits")
        self.name = f"fog-{secrets.token_hex(3)}"
        self.switch = f"{self.name}-sw"
        self.state = RUN / f"{self.name}.json"
        self.nodes = tuple(
            Node(i, f"{self.name}-{i}", f"10.77.0.{10 + i}", f"{self.name}-{i}", f"p{i}", find_cgroup(f"{self.name}-{i}"))
            for i in range(nodes)
        )
        self._lock: IO[str] | None = None
        self._started: list[subprocess.Popen[Any]] = []
        self._tickers: Tickers | None = None

    def __enter__(self) -> FogBed:
        require_root()
        sweep()
        try:
            self._up()
        except BaseException:
            self.down()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.down()

    def _up(self) -> None:
        RUN.mkdir(exist_ok=True)
        self._lock = self.state.open("w")
        fcntl.flock(
            self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB
        )  # locked while the cluster exists, so that sweep() does not remove it
        json.dump(
            {
                "nodes": [
                    {"name": n.name, "address": n.address, "netns": n.netns, "members": [str(m) for m in n.cgroup.members]}
                    for n in self.nodes
                ]
            },
            self._lock,
        )
        self._lock.flush()
        ip(["netns", "add", self.switch])
        ip(["-n", self.switch, "link", "add", "br0", "type", "bridge"])
        ip(["-n", self.switch, "link", "set", "br0", "up"])
        # A switch filters nothing, and this one's processor time is charged to the nodes.
        for name in ("iptables", "ip6tables", "arptables") if BRIDGE_FILTERS.exists() else ():
            ip(["netns", "exec", self.switch, "sysctl", "-qw", f"net.bridge.bridge-nf-call-{name}=0"])
        for node in self.nodes:
            ip(["netns", "add", node.netns])
            veth = ["link", "add", node.port, "type", "veth", "peer", "name", "eth0", "netns", node.netns]
            ip(["-n", self.switch, *veth])
            ip(["-n", self.switch, "link", "set", node.port, "master", "br0", "up"])
            ip(["-n", node.netns, "addr", "add", f"{node.address}/24", "dev", "eth0"])
            for device in ("lo", "eth0"):
                ip(["-n", node.netns, "link", "set", device, "up"])
            for command in shape(node.netns, "eth0", self.rate) + shape(self.switch, node.port, self.rate):
                _run(command)
            node.cgroup.create()
            if (memory := self._memory[node.index]) is not None:
                node.cgroup.set_memory(int(memory))
        self._tickers = Tickers()
        self.set_cpu(self._cpu)

    def down(self) -> None:
        """End all processes in the nodes and remove the nodes. Does nothing the second time."""
        if self._tickers is not None:
            self._tickers.stop()
        for process in self._started:
            process.kill()  # it may not have joined its group yet
        for node in self.nodes:
            node.cgroup.remove()
        for process in self._started:
            process.wait()
        self._started.clear()
        for netns in (self.switch, *(node.netns for node in self.nodes)):
            _remove_netns(netns)
        if self._lock is not None:
            self.state.unlink(missing_ok=True)
            agent_of(self.state).unlink(missing_ok=True)
            self._lock.close()
            self._lock = None

    def command(self, node: int, argv: Sequence[str]) -> list[str]:
        """The command line that runs ``argv`` in a node."""
        return [sys.executable, "-I", "-S", str(ENTER), str(self.state), str(self.nodes[node].index), *argv]

    def popen(self, node: int, argv: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
        """Start ``argv`` in a node; ``options`` are subprocess.Popen's. Its pid is the command's own."""
        process = subprocess.Popen(self.command(node, argv), **options)
        self._started.append(process)
        return process

    def agent(self) -> Path:
        """A program that an MPI launcher may call in place of ssh, with a node's address as the host."""
        path = agent_of(self.state)
        path.write_text(f'#!/bin/sh\nexec "{sys.executable}" -I -S "{ENTER}" "{self.state}" agent "$@"\n')
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return path

    def set_cpu(self, shares: float | Sequence[float | None] | None) -> None:
        """Limit every node to a share of a core, or lift the limit (None), while processes run."""
        for node, share in zip(self.nodes, _per_node(shares, len(self.nodes), "CPU shares"), strict=True):
            node.cgroup.set_cpu(share)

    def set_rate(self, node: int, rate: str) -> None:
        """Change the rate of a node's link, both ways, while it is in use."""
        speed, it = Rate.parse(rate), self.nodes[node]
        for command in reshape(it.netns, "eth0", speed) + reshape(self.switch, it.port, speed):
            _run(command)

    def set_rates(self, rate: str) -> None:
        """Change the rate of every link, both ways, while they are in use."""
        for node in self.nodes:
            self.set_rate(node.index, rate)
        self.rate = Rate.parse(rate)

    def cut(self, node: int) -> None:
        """Disconnect the node's cable: nothing arrives, nothing is refused."""
        ip(["-n", self.switch, "link", "set", self.nodes[node].port, "down"])

    def heal(self, node: int) -> None:
        """Connect the node's cable again."""
        ip(["-n", self.switch, "link", "set", self.nodes[node].port, "up"])

    def usage(self, node: int) -> Usage:
        """The node's usage so far."""
        return self.nodes[node].cgroup.usage()

    def cards(self) -> list[Card]:
        """Each node's network card, counted at the switch (what the port receives the node has sent)."""
        links = json.loads(ip(["-n", self.switch, "-s", "-j", "link"]))
        stats = {link["ifname"]: link["stats64"] for link in links if "stats64" in link}
        return [Card(stats[n.port]["rx"]["bytes"], stats[n.port]["tx"]["bytes"]) for n in self.nodes]


def require_root() -> None:
    """Raises DependencyError where an emulated cluster is impossible."""
    if os.geteuid() != 0:
        raise DependencyError("an emulated cluster needs root (network namespaces and control groups): run it with sudo")
    for tool in ("ip", "tc"):
        if shutil.which(tool) is None:
            raise DependencyError(f"an emulated cluster needs the command {tool!r}: install iproute2")


def sweep() -> None:
    """Remove the clusters of processes that ended without doing so (SIGKILL, power failure)."""
    for state in RUN.glob("fog-*.json"):
        try:
            with state.open() as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                names = [line.split()[0] for line in ip(["netns", "list"]).splitlines() if line.startswith(f"{state.stem}-")]
                for name in names:
                    find_cgroup(name).remove()
                    _remove_netns(name)
                agent_of(state).unlink(missing_ok=True)
                state.unlink()
        except (BlockingIOError, FileNotFoundError):
            continue  # in use, or another process removes it


def agent_of(state: Path) -> Path:
    return state.with_suffix(".agent")


def ip(arguments: Sequence[str]) -> str:
    return _run(["ip", *arguments])


def _run(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise ClusterError(f"{' '.join(command)} failed: {done.stderr.strip()}")
    return done.stdout


def _remove_netns(name: str) -> None:
    if Path("/run/netns", name).exists():
        ip(["netns", "del", name])


def _per_node(value: Any, nodes: int, what: str) -> list[Any]:
    if not isinstance(value, Sequence):
        return [value] * nodes
    if len(value) not in (1, nodes):
        raise InputError(f"{len(value)} {what} for {nodes} nodes: give one, or one per node")
    return list(value) * (nodes if len(value) == 1 else 1)
