"""Descriptors: how many links a process may have, by ZeroMQ's limit on sockets and the system's on open files."""

from __future__ import annotations

import resource
from contextlib import suppress

import zmq

from fogconv.errors import InputError

MOST_LINKS = 5000
SOCKETS_PER_LINK = 3
"""The link's, and both ends of its monitor."""
DESCRIPTORS_PER_LINK = 5
"""One for each socket, the connection, and the direct connection beside it."""
DESCRIPTORS_BESIDES = 64
"""Files, libraries, ZeroMQ's own threads, and a few connections from elsewhere."""
MANY_DESCRIPTORS = 1 << 20
"""Enough where the system has no limit."""


def raise_descriptor_limit() -> int:
    """Let this process open as many files as the system allows it; how many that are."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MANY_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MANY_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < most:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return MANY_DESCRIPTORS if soft == resource.RLIM_INFINITY else soft


def make_room(workers: int) -> None:
    """Raise the limits for a link to each worker. Raises InputError, before anything is opened, where they are too low."""
    if workers > MOST_LINKS:
        raise InputError(f"{workers} workers: one master can have at most {MOST_LINKS}")
    allowed, needed = raise_descriptor_limit(), workers * DESCRIPTORS_PER_LINK + DESCRIPTORS_BESIDES
    if needed > allowed:
        raise InputError(
            f"{workers} workers need {needed} open files, and this process may have {allowed}: raise the limit "
            f"(ulimit -n {needed}), or name at most {max(0, allowed - DESCRIPTORS_BESIDES) // DESCRIPTORS_PER_LINK} workers"
        )


def roomy_context() -> zmq.Context[zmq.Socket[bytes]]:
    """A context that allows MOST_LINKS links; ZeroMQ's default is 1,023 sockets."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    context.set(zmq.MAX_SOCKETS, SOCKETS_PER_LINK * MOST_LINKS + DESCRIPTORS_BESIDES)
    return context
