"""``fogconv status``: the state of a cluster's workers, live."""

from __future__ import annotations

import math
import signal
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fogconv.cli.options.connection import InsecureOption, KeysOption
from fogconv.cli.options.values import CLUSTER, number
from fogconv.cli.output.json_text import json_text
from fogconv.cli.process.exit_codes import sentences
from fogconv.values.table import INTERVAL

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.console import RenderableType

    from fogconv.cluster.protocol.messages import Status
    from fogconv.cluster.transport.endpoint import Peer

ANSWER_S = 2.0
"""A worker that computes answers within ATTEND_S of fogconv.cluster.worker.process; this is for slow networks."""

REMEMBERED = 100
"""Rounds for which an answer may be late."""

CLOCK_DRIFT = 1e-3
"""By this share two machines' clocks may differ in their pace."""

STATES = {"joining": "idle", "lost": "idle"}
"""A worker that waits for a master reports "joining" or, after the loss of its master, "lost"."""


@dataclass(frozen=True, slots=True)
class Health:
    """One worker, as of its last answer.

    ``rate`` is the hostfile's (1: as fast as the others); ``share`` is the worker's part of all the weights that
    workers hold; ``bytes_per_s`` and ``runs_per_s`` are between its last two answers. ``load``: see
    `fogconv.hardware.latency.samples.DeviceLoad`. ``authenticated``: it serves masters by their keys. Both are None where
    it has not answered.
    """

    address: str
    rate: float
    state: str = "silent"
    master: str = ""
    share: float = 0.0
    runs: int = 0
    runs_per_s: float = 0.0
    sent_bytes: int = 0
    received_bytes: int = 0
    bytes_per_s: float = 0.0
    weight_bytes: int = 0
    memory_bytes: int = 0
    memory_limit_bytes: int = 0
    threads: int = 0
    temperature_c: float | None = None
    throttled: bool = False
    uptime_s: float = 0.0
    restarts: int = 0
    seen_s_ago: float | None = None
    task: str = ""
    """What a busy worker does: loading, measuring, running."""
    authenticated: bool | None = None
    load: Mapping[str, float | None] | None = None


@dataclass
class Watcher:
    """Asks workers for their status. It opens no session, so a worker can serve its master at the same time."""

    rates: Mapping[str, float]
    keys: Path | None = None
    insecure: bool = False
    health: dict[str, Health] = field(init=False)

    def __post_init__(self) -> None:
        from fogconv.cluster.transport_registry import Dialing, transport_of_all

        addresses = list(self.rates)
        dialed = transport_of_all(addresses).dial(addresses, Dialing(keys=self.keys, insecure=self.insecure))
        self._keys = dict(zip(addresses, dialed.keys, strict=True))
        self._endpoint = dialed.endpoint
        self._peers: dict[Peer, str] = {}
        self._answered_at: dict[str, float] = {}
        self._started_by: dict[str, float] = {}
        """By this time at the latest, by our clock, each worker had started."""
        self._request = 0
        self._asked_at: dict[int, float] = {}
        self.health = {address: Health(address, rate) for address, rate in self.rates.items()}
        for address in self.rates:
            self._peers[self._endpoint.connect(address, self._keys[address])] = address

    def ask(self, timeout_s: float = ANSWER_S) -> tuple[Health, ...]:
        """One round: query all workers and wait for their answers."""
        from fogconv.cluster.protocol import codec
        from fogconv.cluster.protocol import messages as m
        from fogconv.cluster.transport.endpoint import Loss
        from fogconv.errors import WireError

        self._request += 1
        self._asked_at[self._request] = time.monotonic()
        self._asked_at.pop(self._request - REMEMBERED, None)
        for peer in list(self._peers):
            self._endpoint.send(peer, codec.encode(m.StatusQuery(self._request)))
        waiting = set(self.rates)
        deadline = time.monotonic() + timeout_s
        while waiting and (left := deadline - time.monotonic()) > 0:
            event = self._endpoint.receive(left)
            if event is None:
                continue
            address = self._peers.get(event.peer)
            if address is None:
                continue
            if isinstance(event, Loss):
                self._endpoint.disconnect(event.peer)
                del self._peers[event.peer]
                self._peers[self._endpoint.connect(address, self._keys[address])] = address
                waiting.discard(address)
                self.health[address] = replace(self.health[address], state="gone")
                continue
            try:
                message, _ = codec.decode(event.frames)
            except WireError:
                waiting.discard(address)
                self.health[address] = replace(self.health[address], state="speaks another version")
                continue
            if isinstance(message, m.Status):
                waiting.discard(address)
                self._note(address, message)
            elif isinstance(message, m.Refused):
                waiting.discard(address)
                self.health[address] = replace(self.health[address], state=f"refuses: {message.reason}")
        for address in waiting:
            before = self.health[address]
            self.health[address] = replace(before, state="silent" if before.state != "gone" else "gone")
        return self._shares()

    def close(self) -> None:
        self._endpoint.close()

    def _note(self, address: str, status: Status) -> None:
        from msgspec import structs

        before, now = self.health[address], time.monotonic()
        since = now - self._answered_at.get(address, now)
        # The answer was written between the question and now. A restart right after the last answer can be older by now than
        # the worker was then, so that the ages alone do not show it.
        by = self._started_by.get(address, math.inf) + CLOCK_DRIFT * since
        restarted = self._asked_at.get(status.request, -math.inf) - status.uptime_s > by
        self._started_by[address] = now - status.uptime_s if restarted else min(by, now - status.uptime_s)
        again = since > 0 and not restarted
        moved = status.sent_bytes + status.received_bytes - before.sent_bytes - before.received_bytes
        self._answered_at[address] = now
        state, _, task = status.state.partition(": ")
        self.health[address] = replace(
            before,
            state=STATES.get(state, state),
            task=task,
            master=status.master,
            runs=status.runs,
            runs_per_s=(status.runs - before.runs) / since if again else 0.0,
            sent_bytes=status.sent_bytes,
            received_bytes=status.received_bytes,
            bytes_per_s=moved / since if again else 0.0,
            weight_bytes=status.weight_bytes,
            memory_bytes=status.memory_bytes,
            memory_limit_bytes=status.memory_limit_bytes,
            threads=status.threads,
            load=structs.asdict(status.load),
            temperature_c=status.load.temperature_c,
            throttled=status.throttled,
            authenticated=status.authenticated,
            uptime_s=status.uptime_s,
            restarts=before.restarts + restarted,
        )

    def _shares(self) -> tuple[Health, ...]:
        total = sum(health.weight_bytes for health in self.health.values())
        now = time.monotonic()
        for address, health in self.health.items():
            at = self._answered_at.get(address)
            share = health.weight_bytes / total if total else 0.0
            self.health[address] = replace(health, share=share, seen_s_ago=None if at is None else now - at)
        return tuple(self.health.values())


def status(
    cluster: Annotated[str, typer.Option(parser=CLUSTER, help="Workers as tcp://HOST:PORT,… or a hostfile.")],
    keys: KeysOption = None,
    insecure: InsecureOption = False,
    interval: Annotated[float, typer.Option(parser=number("seconds", INTERVAL), help="Seconds between two rounds.")] = 1.0,
    once: Annotated[
        bool, typer.Option("--once", help="End after one round, with exit code 0 if all answered, else 1.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per round on stdout.")] = False,
) -> None:
    """Show the workers' state, share, speed, memory, other load and temperature.

    This does not disturb the workers or their master. Ctrl-C ends it.
    """
    with sentences("fogconv status"):
        watcher = Watcher(rates_of(cluster), keys, insecure)
        try:
            if once or as_json:
                _print_rounds(watcher, interval, once, as_json)
            else:
                _live(watcher, interval)
        finally:
            watcher.close()


def rates_of(cluster: str) -> dict[str, float]:
    """Addresses in order, with their relative rates from a hostfile. Raises InputError, TopologyError."""
    from fogconv.cluster.connect import addresses_of
    from fogconv.cluster.transport_registry import listening_forms, transport_of_all
    from fogconv.errors import InputError
    from fogconv.hardware.hostfile import read_hostfile

    addresses = addresses_of(cluster)
    if transport_of_all(addresses).listen is None:
        raise InputError(f"--cluster {cluster}: only workers with addresses can be queried: {listening_forms()}")
    rates = [1.0] * len(addresses)
    if "://" not in cluster:
        rates = [host.rate or 1.0 for host in read_hostfile(cluster) for _ in range(host.slots)]
    return dict(zip(addresses, rates, strict=True))


def _print_rounds(watcher: Watcher, interval_s: float, once: bool, as_json: bool) -> None:
    from rich.console import Console

    while True:
        found = watcher.ask()
        if as_json:
            print(json_text({"workers": [asdict(health) for health in found]}), flush=True)
        else:
            Console(highlight=False).print(table(found))
        if once:
            break
        time.sleep(interval_s)
    if any(health.state in ("silent", "gone") or " " in health.state for health in found):
        raise typer.Exit(1)


def _live(watcher: Watcher, interval_s: float) -> None:
    from rich.console import Console
    from rich.live import Live

    # Otherwise Ctrl-C exits at once and leaves the cursor hidden.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with Live(table(watcher.ask()), console=Console(highlight=False), auto_refresh=False, screen=False) as live:
        while True:
            time.sleep(interval_s)
            live.update(table(watcher.ask()), refresh=True)


def table(found: Sequence[Health]) -> RenderableType:
    """Two lines per worker, which fit 80 columns; below them the workers that any process on the network may use."""
    from rich.console import Group
    from rich.text import Text

    from fogconv.analysis.figures import byte_count
    from fogconv.cli.output.ellipsis import Name
    from fogconv.cli.output.tables.table import figures_table

    shown = figures_table(
        "worker\nmaster",
        "state\nup",
        "share\nrate",
        "runs\nper s",
        "sent\nB/s",
        "recvd\nseen",
        "memory\nlimit",
        "load\n°C",
        "restarts\n",
    )
    for health in found:
        silent = health.seen_s_ago is None
        state = health.state if " " not in health.state else "refuses"
        colour = {"idle": "green", "ready": "cyan", "busy": "cyan"}.get(state, "yellow")
        colour = "red" if state in ("silent", "gone", "refuses") else colour
        heat = "" if health.temperature_c is None else f"{health.temperature_c:.0f}"
        shown.add_row(
            Name(health.address.removeprefix("tcp://"), health.master),
            Text.assemble((state, colour), "\n", "" if silent else health.task or _age(health.uptime_s)),
            f"{health.share:.0%}\n×{health.rate:g}",
            "" if silent else f"{health.runs}\n{health.runs_per_s:.1f}",
            "" if silent else f"{byte_count(health.sent_bytes)}\n{byte_count(health.bytes_per_s)}",
            "" if silent else f"{byte_count(health.received_bytes)}\n{_age(health.seen_s_ago or 0.0)}",
            "" if silent else f"{byte_count(health.memory_bytes)}\n{_limit(health, byte_count)}",
            f"{_others(health)}\n{heat}{' [red]slow[/red]' if health.throttled else ''}",
            str(health.restarts),
        )
    warning = unprotected(found)
    return Group(shown, Text(warning, "yellow")) if warning else shown


def unprotected(found: Sequence[Health]) -> str:
    """A sentence about the workers that serve any process that reaches them over a network; empty if there are none."""
    from fogconv.cluster.protocol.keys import is_local

    names = [health.address for health in found if health.authenticated is False and not is_local(health.address)]
    return f"Without keys, open to every process that reaches them: {', '.join(names)}" if names else ""


def _others(health: Health) -> str:
    """What other processes take of the cores."""
    return "" if health.load is None else f"{health.load['cpu'] or 0.0:.0%}"


def _limit(health: Health, byte_count: Any) -> str:
    return str(byte_count(health.memory_limit_bytes)) if health.memory_limit_bytes else "none"


def _age(seconds: float) -> str:
    for limit, scale, unit in ((120, 1, "s"), (7200, 60, "min"), (172800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / scale:.0f} {unit}"
    return f"{seconds / 86400:.0f} d"
