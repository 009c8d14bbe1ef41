"""What an endpoint waits on, and what compiled code does."""

from __future__ import annotations

import select
from collections.abc import Iterator
from contextlib import ExitStack
from socket import socketpair

import pytest

from fogconv.cluster.transport.zeromq.watched import Watched


@pytest.fixture
def descriptors() -> Iterator[list[int]]:
    with ExitStack() as stack:
        yield [stack.enter_context(end).fileno() for _ in range(2) for end in socketpair()]


def test_what_is_only_to_be_read_can_be_left_out(descriptors: list[int]) -> None:
    watched = Watched()
    a, b, c, d = descriptors
    for fd in descriptors:
        watched.register(fd, select.POLLIN)
    watched.modify(b, select.POLLIN | select.POLLOUT)
    watched.unregister(d)
    assert watched.structs({a, b}).tolist() == [[b, select.POLLIN | select.POLLOUT], [c, select.POLLIN]]
    assert watched.poll(0) == [(b, select.POLLOUT)]
    with pytest.raises(KeyError):
        watched.unregister(d)
