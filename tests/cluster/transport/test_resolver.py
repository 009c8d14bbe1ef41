"""Names are resolved beside everything else: one that hangs holds up nothing but itself."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence

import pytest

from bench.hostile.silent_network import command, trouble
from fogconv.cluster.transport.resolver import FRESH_S, Resolver, system_lookup
from tests.cluster.cluster_of import eventually
from tests.cluster.launch import ROOT, environment

pytestmark = pytest.mark.alone


class Names:
    """A lookup that a test controls: names in ``hanging`` get no answer until the end."""

    def __init__(self, **known: Sequence[str]) -> None:
        self.known = known
        self.hanging: set[str] = set()
        self.asked: list[str] = []
        self.over = threading.Event()

    def __call__(self, name: str) -> Sequence[str]:
        self.asked.append(name)
        if name in self.hanging:
            self.over.wait(60.0)
        if name not in self.known:
            raise OSError(-2, "Name or service not known")
        return self.known[name]


@pytest.fixture
def names() -> Iterator[Names]:
    made = Names(pi1=("10.0.0.1",), both=("fe80::1%2", "10.0.0.2"))
    yield made
    made.over.set()


def test_a_name_is_looked_up_once_and_remembered(names: Names) -> None:
    resolver = Resolver(names)
    assert resolver.remembered("both") is None
    assert resolver.resolve("both").numbers == ("fe80::1%2", "10.0.0.2")
    assert resolver.resolve("both").numbers == ("fe80::1%2", "10.0.0.2")
    assert names.asked == ["both"]


def test_a_name_that_hangs_fails_at_the_limit_and_holds_up_no_other(names: Names) -> None:
    names.hanging.add("silent")
    resolver = Resolver(names, limit_s=2.5)
    found = []
    for _ in range(3):  # all of them wait for the same lookup
        resolver.resolve_later("silent", found.append)
    assert resolver.resolve("pi1").numbers == ("10.0.0.1",)
    eventually(lambda: len(found) == 3)
    assert {resolution.numbers for resolution in found} == {()}
    assert "'silent' was not resolved within 2.5 s" in found[0].trouble
    assert names.asked.count("silent") == 1


def test_an_answer_after_the_limit_is_there_for_the_next_time(names: Names) -> None:
    names.hanging.add("pi1")
    resolver = Resolver(names, limit_s=0.05)
    assert not resolver.resolve("pi1").numbers
    names.over.set()
    eventually(lambda: resolver.remembered("pi1") is not None)
    assert resolver.resolve("pi1").numbers == ("10.0.0.1",)
    assert names.asked == ["pi1"]


def test_an_unknown_name_says_so_and_is_asked_again(names: Names) -> None:
    resolver = Resolver(names)
    assert resolver.resolve("pi9").trouble == "the name 'pi9' can't be resolved: Name or service not known"
    names.known = {"pi9": ("10.0.0.9",)}
    assert resolver.resolve("pi9").numbers == ("10.0.0.9",)


def test_old_numbers_are_used_once_more_and_asked_anew(names: Names) -> None:
    now = [0.0]
    resolver = Resolver(names, clock=lambda: now[0])
    resolver.resolve("pi1")
    names.known = {"pi1": ("10.0.0.7",)}
    now[0] = FRESH_S / 2
    assert resolver.resolve("pi1").numbers == ("10.0.0.1",)
    now[0] = 2 * FRESH_S
    assert resolver.resolve("pi1").numbers == ("10.0.0.1",)
    eventually(lambda: resolver.resolve("pi1").numbers == ("10.0.0.7",))


def test_the_systems_resolver_gives_numbers() -> None:
    assert {"127.0.0.1", "::1"} & set(system_lookup("localhost"))
    assert system_lookup("127.0.0.1") == ("127.0.0.1",)


HANGING = """
import threading
from fogconv.cluster.transport.zeromq.endpoint import ZeromqEndpoint
from fogconv.cluster.transport.resolver import Resolver

endpoint = ZeromqEndpoint(resolver=Resolver(lambda name: threading.Event().wait() and ()))
for number in range(20):
    endpoint.send(endpoint.connect(f"tcp://silent{number}:5555"), [b"lost"])
endpoint.close()
print("closed")
"""


def test_a_program_ends_while_a_name_hangs() -> None:
    """A hang guard only: with ZeroMQ's own resolver, and with threads that are no daemons, it would not end."""
    done = subprocess.run(
        [sys.executable, "-c", HANGING], cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "closed\n", "")


@pytest.mark.timeout(120)
def test_a_silent_name_server_holds_up_no_link_and_no_end() -> None:
    if trouble():
        pytest.skip(trouble())
    done = subprocess.run(
        command("tests.cluster.transport.zeromq.silent_names", ()),
        cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert found["asked"]
    assert "'silent.test' was not resolved within 5 s: the name server does not answer" in found["silent"]
    assert found["other"], "the other link has lived through it"
