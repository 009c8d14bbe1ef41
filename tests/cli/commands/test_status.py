"""`fogconv status`: workers report their status, whichever master they serve."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs
from rich.console import Console
from typer.testing import CliRunner, Result

from fogconv.cli.commands.status import Health, Watcher, rates_of, status, table, unprotected
from fogconv.cluster.connect import connect
from fogconv.cluster.protocol.messages import Status
from fogconv.errors import InputError
from fogconv.hardware.latency.samples import DeviceLoad
from tests.cluster.launch import free_port, process, wait_until_listening

pytestmark = pytest.mark.alone

WORKER = "import sys; sys.modules['torch'] = None; from fogconv.cli.app import main_worker; main_worker()"


def reply(request: int, uptime_s: float) -> Status:
    return Status(request, "joining", "", uptime_s, 0, 0, 0, 0, 0, 0, 0, 0, 1, DeviceLoad(), False, True)


def call(*arguments: str) -> Result:
    application = typer.Typer()
    application.command()(status)
    return CliRunner().invoke(application, arguments, env={"COLUMNS": "80", "TERM": "dumb"})


@pytest.fixture(scope="module")
def addresses() -> Iterator[list[str]]:
    with ExitStack() as stack:
        found = [f"tcp://127.0.0.1:{free_port()}" for _ in range(2)]
        for address in found:
            stack.enter_context(process(sys.executable, "-c", WORKER, "--bind", address, "--memory", "900M"))
        for address in found:
            wait_until_listening(int(address.rpartition(":")[2]))
        yield found


def test_idle_workers_are_seen(addresses: list[str]) -> None:
    result = call("--once", "--json", "--cluster", ",".join(addresses))
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)["workers"]
    assert [worker["address"] for worker in found] == addresses
    for worker in found:
        assert worker["state"] == "idle"
        assert worker["memory_bytes"] > 10e6
        assert worker["memory_limit_bytes"] == 900_000_000
        assert worker["uptime_s"] > 0
        assert worker["restarts"] == 0
        assert 0 <= worker["load"]["cpu"] <= 1 and 0 < worker["load"]["memory"] < 1
        assert worker["load"]["temperature_c"] == worker["temperature_c"]


def test_a_worker_tells_its_master_and_is_not_disturbed(addresses: list[str]) -> None:
    with connect(addresses, name="the master") as session:
        result = call("--once", "--json", "--cluster", addresses[0])
        worker = json.loads(result.stdout)["workers"][0]
        assert (worker["state"], worker["master"]) == ("ready", "the master")
        assert session.ping(1).there_s >= 0
        assert not session.lost


def test_a_silent_address_is_shown_and_told_by_the_exit_code(addresses: list[str]) -> None:
    result = call("--once", "--cluster", f"{addresses[0]},tcp://127.0.0.1:{free_port()}")
    assert result.exit_code == 1
    assert "idle" in result.stdout
    assert "silent" in result.stdout or "gone" in result.stdout
    assert all(len(line) <= 80 for line in result.stdout.splitlines())


def test_a_restart_is_counted() -> None:
    address = f"tcp://127.0.0.1:{free_port()}"
    port = int(address.rpartition(":")[2])
    watcher = Watcher({address: 1.0})
    try:
        with process(sys.executable, "-c", WORKER, "--bind", address):
            wait_until_listening(port)
            watcher.ask(10.0)
            (first,) = watcher.ask(10.0)
        with process(sys.executable, "-c", WORKER, "--bind", address):
            wait_until_listening(port)
            for _ in range(20):
                (second,) = watcher.ask(2.0)
                if second.restarts:
                    break
    finally:
        watcher.close()
    assert (first.state, first.restarts) == ("idle", 0)
    assert (second.state, second.restarts) == ("idle", 1)


def test_a_restart_shows_whatever_the_ages_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second process may be older when it is asked than the first one was."""
    watcher = Watcher({"tcp://127.0.0.1:1": 1.0})
    try:
        at = 1000.0
        monkeypatch.setattr("time.monotonic", lambda: at)

        def answer(started: float, asked: float, answered: float) -> int:
            nonlocal at
            watcher._request += 1
            watcher._asked_at[watcher._request] = asked
            at = answered
            watcher._note("tcp://127.0.0.1:1", reply(watcher._request, answered - started))
            return watcher.health["tcp://127.0.0.1:1"].restarts

        assert answer(999.0, 1000.0, 1000.1) == 0
        assert answer(999.0, 1001.0, 1009.0) == 0, "a slow answer is none"
        assert answer(1009.5, 1030.0, 1030.1) == 1, "older than the first one was, and started later"
        assert answer(1009.5, 1031.0, 1031.1) == 1
        assert answer(1060.0, 1018.0, 1070.0) == 1, "the question waited for the link: it may be the same one"
        assert answer(1060.0, 1071.0, 1071.1) == 2
    finally:
        watcher.close()


@given(
    st.lists(st.tuples(st.floats(0.01, 5000.0), st.floats(0.0, 30.0), st.floats(0.0, 1.0)), max_size=20),
    st.floats(-9e-4, 9e-4),
)
def test_a_worker_that_goes_on_never_seems_to_restart(asks: list[tuple[float, float, float]], drift: float) -> None:
    """Whatever its answers take, and though its clock has another pace."""
    watcher = Watcher({"tcp://127.0.0.1:1": 1.0})
    try:
        with pytest.MonkeyPatch.context() as patch:
            at = 100.0
            patch.setattr("time.monotonic", lambda: at)
            for pause, trip, share in asks:
                asked = at + pause
                watcher._request += 1
                watcher._asked_at[watcher._request] = asked
                at = asked + trip
                watcher._note("tcp://127.0.0.1:1", reply(watcher._request, (asked + share * trip) * (1 + drift)))
            assert watcher.health["tcp://127.0.0.1:1"].restarts == 0
    finally:
        watcher.close()


@pytest.mark.parametrize("name", ["[/oops]", "[link=x]y\\", "\x1b]0;title\x07\x1b[31mred\nforged line", "n" * 4096])
def test_a_master_of_any_name_ends_no_status(addresses: list[str], name: str) -> None:
    with connect(addresses, name=name):
        result = call("--once", "--cluster", ",".join(addresses))
    assert result.exit_code == 0, result.output
    assert "\x1b" not in result.output
    assert "\x07" not in result.output
    assert "\nforged" not in result.output
    if name == "[/oops]":
        assert name in result.output


def test_a_hostfile_gives_rates(tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    path.write_text("#fogconv port=5001 rate=2\n127.0.0.1:2\n#fogconv port=6001\n127.0.0.1\n")
    assert rates_of(str(path)) == {"tcp://127.0.0.1:5001": 2.0, "tcp://127.0.0.1:5002": 2.0, "tcp://127.0.0.1:6001": 1.0}


def test_ranks_without_addresses_can_not_be_asked() -> None:
    with pytest.raises(InputError, match="addresses"):
        rates_of("mpi://")


def test_the_table_is_whole_at_80_columns_and_shows_heat() -> None:
    hot = Health(
        "tcp://192.168.100.100:5555", 1.5, "busy", "some-master:12345", 0.125, 123456, 99.9, 10**10, 10**10, 10**8, 10**9,
        10**9, 2 * 10**9, 4, 81.5, True, 1e6, 12, 0.01, load=structs.asdict(DeviceLoad(0.97)),
    )  # fmt: skip
    out = io.StringIO()
    Console(file=out, width=80).print(table([hot]))
    shown = out.getvalue()
    assert "…" not in shown
    for part in (
        "192.168.100.100:5555",
        "busy",
        "12%",
        "×1.5",
        "123456",
        "10.0G",
        "100M",
        "2.0G",
        "82 slow",
        "97%",
        "12 d",
        "12",
    ):
        assert part in shown, shown


def test_workers_without_keys_on_a_network_are_named() -> None:
    found = [
        Health("tcp://192.168.0.7:5555", 1.0, authenticated=False),
        Health("tcp://192.168.0.8:5555", 1.0, authenticated=True),
        Health("tcp://192.168.0.9:5555", 1.0),
        Health("tcp://127.0.0.1:5555", 1.0, authenticated=False),
    ]
    assert unprotected(found) == "Without keys, open to every process that reaches them: tcp://192.168.0.7:5555"
    assert unprotected(found[1:]) == ""
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(table(found))
    assert "Without keys" in console.export_text()
