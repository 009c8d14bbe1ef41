"""The table of connections: strangers bounded in number and in bytes, admitted ones not, and honest watchers not cut off."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fogconv.cluster.transport.zeromq.admission.register import PENDING_BYTES, Account, Limits, Register, Visitor, origin_of

LIMITS = Limits(stranger_bytes=1000, strangers_bytes=3000, strangers_per_address=3, strangers=5, connections=8)


def visitor(fd: int, origin: str = "10.0.0.1", since: float = 0.0) -> Visitor:
    return Visitor(fd, bytes([fd]), origin, since)


def test_the_oldest_of_an_address_goes_when_one_too_many_comes() -> None:
    register = Register(LIMITS)
    for fd in range(3):
        assert register.arrive(visitor(fd)) == []
    assert [out.fd for out in register.arrive(visitor(3))] == [0]
    assert [out.fd for out in register.arrive(visitor(4))] == [1], "0 is on its way out, and counts no more"
    assert register.arrive(visitor(5, "10.0.0.2")) == []


def test_the_oldest_of_all_goes_when_too_many_come_from_many_addresses() -> None:
    register = Register(LIMITS)
    for fd in range(5):
        assert register.arrive(visitor(fd, f"10.0.0.{fd}")) == []
    assert [out.fd for out in register.arrive(visitor(5, "10.0.0.5"))] == [0]


def test_admitted_ones_are_no_strangers_but_count_as_connections() -> None:
    register = Register(LIMITS)
    for fd in range(8):
        assert register.arrive(visitor(fd)) == []
        register.admit(fd, bytes([fd]), Account())
    assert [out.fd for out in register.arrive(visitor(8))] == [8]
    assert register.measure(0, 10**9) == []


def test_a_stranger_may_owe_so_much_and_no_more() -> None:
    register = Register(LIMITS)
    register.arrive(visitor(1))
    assert register.measure(1, 1000) == []
    assert [out.fd for out in register.measure(1, 1001)] == [1]
    assert register.measure(1, 5000) == [], "it is on its way out"


def test_all_strangers_together_may_owe_so_much_and_the_largest_goes() -> None:
    register = Register(LIMITS)
    for fd in range(5):
        register.arrive(visitor(fd, f"10.0.0.{fd}"))
    out = [out.fd for fd, received in enumerate((700, 900, 800, 600, 500)) for out in register.measure(fd, received)]
    assert out == [1]


def test_who_asks_short_questions_all_day_is_not_cut_off() -> None:
    """A watcher's question a second, with heartbeats of 54 bytes a second between them."""
    register = Register()
    register.arrive(visitor(1))
    received = 300
    for second in range(100_000):
        received += 54 + 80
        register.settle(1, 1, 20, float(second))
        assert register.measure(1, received) == []


@given(st.lists(st.tuples(st.integers(1, 400), st.integers(0, 300)), max_size=60))
def test_a_message_that_never_ends_costs_no_more_than_the_limit_whatever_was_read_before(
    messages: list[tuple[int, int]],
) -> None:
    """What was read is forgiven, with what may have been around it, and never more than has come."""
    register = Register(LIMITS)
    register.arrive(visitor(1))
    received = 0
    for number, (nbytes, more) in enumerate(messages):
        received += nbytes + more
        register.settle(1, 1, nbytes, float(number))
        if register.measure(1, received):
            return
    assert [out.fd for out in register.measure(1, received + LIMITS.stranger_bytes + 1)] == [1]


def test_who_is_admitted_before_its_arrival_is_known_is_admitted() -> None:
    register = Register(LIMITS)
    register.admit(1, bytes([1]), Account())
    register.arrive(visitor(1))
    assert register.measure(1, 10**9) == []
    register.leave(1)
    register.arrive(visitor(1))
    assert len(register.measure(1, 10**9)) == 1, "the next that gets its number is another"


def test_who_is_admitted_under_the_number_of_another_is_admitted_when_it_arrives() -> None:
    register = Register(LIMITS)
    register.arrive(Visitor(1, b"earlier", "10.0.0.1", 0.0))
    register.admit(1, b"later", Account())
    assert len(register.measure(1, 10**9)) == 1, "the earlier one is still a stranger"
    register.leave(1)
    register.arrive(Visitor(1, b"later", "10.0.0.1", 0.0))
    assert register.measure(1, 10**9) == []
    assert register.arrive(Visitor(1, b"later", "10.0.0.1", 0.0)) == [], "and stays so when it is reported again"
    assert register.measure(1, 10**9) == []


def test_of_those_that_never_arrive_not_many_are_kept() -> None:
    register = Register(LIMITS)
    for number in range(100):
        register.admit(1, bytes([number]), Account())
    assert len(register._early) == LIMITS.connections


def test_an_admitted_one_goes_when_memory_is_short_and_no_message_comes_of_what_it_sends() -> None:
    register, account, asked = Register(LIMITS), Account(), []
    register.arrive(visitor(1))
    register.admit(1, bytes([1]), account)

    def has_room(nbytes: int) -> bool:
        asked.append(nbytes)
        return len(asked) < 3

    received = 0
    for _ in range(100):
        received += PENDING_BYTES
        account.spoke = True
        assert register.measure_admitted(1, received, has_room) == [], "what it sends is read"
    assert asked == []
    outcomes = []
    for _ in range(4):
        received += PENDING_BYTES // 2 + 1
        outcomes.append([out.fd for out in register.measure_admitted(1, received, has_room)])
    assert outcomes == [[], [], [1], []]
    assert register.measure_admitted(1, 2 * received, has_room) == []


def test_who_is_dismissed_owes_nothing_of_what_came_before() -> None:
    register = Register(LIMITS)
    register.arrive(visitor(1))
    register.admit(1, bytes([1]), Account())
    register.dismiss(1, bytes([1]), 10**6)
    assert register.measure(1, 10**6 + 1000) == []
    assert len(register.measure(1, 10**6 + 1001)) == 1


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("10.0.0.7", "10.0.0.7"),
        ("::ffff:10.0.0.7", "10.0.0.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("somewhere", "somewhere"),
    ],
)
def test_a_network_that_one_device_may_have_whole_is_one_origin(host: str, origin: str) -> None:
    assert origin_of(host) == origin


@given(st.integers(0, 1 << 21))
def test_strangers_leave_descriptors_for_the_rest(descriptors: int) -> None:
    limits = Limits.within(descriptors)
    assert limits.strangers_per_address <= limits.strangers <= descriptors // 4
    assert limits.connections <= descriptors // 2
