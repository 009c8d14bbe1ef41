"""Resolver: names to numbers, each name in a thread of its own and within a time limit.

ZeroMQ resolves names in its only I/O thread, where one silent name server holds up every heartbeat. So it is given numbers
only. The threads are daemons: one that hangs in the system's resolver keeps neither another name nor the program's end.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from fogconv.errors import quoted

RESOLVE_S = 5.0
"""How long a name may take to be resolved."""
FRESH_S = 60.0
"""Numbers older than this are used once more, and looked up again for the next time."""

Lookup = Callable[[str], Sequence[str]]
"""A name to its numbers, the best first. Raises OSError."""


@dataclass(frozen=True, slots=True)
class Resolution:
    """What a name stands for: ``numbers``, the best first (an IPv6 number may have a scope), or why there is none."""

    name: str
    numbers: tuple[str, ...] = ()
    trouble: str = ""


@dataclass(eq=False, slots=True)
class _Query:
    """A lookup under way."""

    over: threading.Event = field(default_factory=threading.Event)
    found: Resolution | None = None


def system_lookup(name: str) -> tuple[str, ...]:
    """The numbers of a name by the system's resolver: /etc/hosts, mDNS, DNS."""
    found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    numbers = []
    for _, _, _, _, place in found:
        number, scope = str(place[0]), place[3] if len(place) > 3 else 0
        numbers.append(f"{number}%{scope}" if scope and "%" not in number else number)
    return tuple(dict.fromkeys(numbers))


class Resolver:
    """Looks names up and remembers their numbers. Its methods may be called from several threads.

    A name is looked up by one thread at a time, however many ask. ``clock`` is monotonic, in seconds.
    """

    def __init__(
        self, lookup: Lookup = system_lookup, limit_s: float = RESOLVE_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.limit_s = limit_s
        self._lookup = lookup
        self._clock = clock
        self._lock = threading.Lock()
        self._known: dict[str, tuple[float, Resolution]] = {}
        self._queries: dict[str, _Query] = {}

    def remembered(self, name: str) -> Resolution | None:
        """The numbers of a name as they were found before; None if they never were. It never waits."""
        with self._lock:
            known = self._known.get(name)
        if known is None:
            return None
        if self._clock() - known[0] > FRESH_S:
            self._query(name)
        return known[1]

    def resolve(self, name: str) -> Resolution:
        """The numbers of a name, remembered or looked up; after ``limit_s`` without an answer, none."""
        known = self.remembered(name)
        if known is not None:
            return known
        query = self._query(name)
        query.over.wait(self.limit_s)
        if query.found is not None:
            return query.found
        return Resolution(
            name,
            trouble=f"the name {quoted(name)} was not resolved within {self.limit_s:g} s: the name server does not answer; "
            "write the number, or add the name to /etc/hosts",
        )

    def resolve_later(self, name: str, done: Callable[[Resolution], None]) -> None:
        """``resolve`` in a thread of its own, which hands the result over."""
        threading.Thread(target=lambda: done(self.resolve(name)), name="resolve", daemon=True).start()

    def _query(self, name: str) -> _Query:
        """The lookup of a name that is under way, or a new one."""
        with self._lock:
            query = self._queries.get(name)
            if query is None:
                query = self._queries[name] = _Query()
                threading.Thread(target=self._look_up, args=(name, query), name="lookup", daemon=True).start()
            return query

    def _look_up(self, name: str, query: _Query) -> None:
        try:
            numbers = tuple(self._lookup(name))
            trouble = "" if numbers else f"the name {quoted(name)} stands for no address"
        except (OSError, UnicodeError) as error:
            numbers = ()
            trouble = f"the name {quoted(name)} can't be resolved: {getattr(error, 'strerror', None) or error}"
        found = Resolution(name, numbers, trouble)
        with self._lock:
            if numbers:
                self._known[name] = (self._clock(), found)
            query.found = found
            del self._queries[name]
        query.over.set()
