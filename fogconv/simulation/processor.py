"""Processor and Card: a simulated rank's processor and network card, which may run in bursts only.

A quota, as containers and hypervisors set it, grants some of the processor's time in each period; unused time is not
saved. The quota is enforced at the system's ticks only, so that a device overdraws it, and then stops for as many periods
as it takes to pay the debt:

    period   |         |         |         |         |         |         quota 1 ms in each period of 5 ms
    tick     |       |       |       |       |       |       |       |   every 4 ms
    running  ########                                ########            a long piece of work: 4 ms in 20

A shaped card lets a burst pass at once after a rest, and then limits itself to its rate.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Generator
from copy import copy
from typing import TYPE_CHECKING, Any

from fogconv.hardware.topology import Device

if TYPE_CHECKING:
    import simpy

EPSILON = 1e-9
"""The tolerance, as a share of a period, for rounding in sums of floats."""


class Quota:
    """The balance of one device: the processor time that it may still use, in seconds. ``phases``: the positions within
    the period and between two ticks at time 0, both from 0 to 1."""

    def __init__(self, share: float, period_s: float, tick_s: float, phases: tuple[float, float] = (0.0, 0.0)) -> None:
        self.period_s, self.tick_s = period_s, tick_s
        self.quota_s = share * period_s
        self._period_at = -phases[0] * period_s
        self._tick_at = -phases[1] * tick_s
        self._left = self.quota_s
        self._ran_until = -math.inf

    def run(self, now: float, cpu_s: float, until: float = math.inf) -> tuple[float, float]:
        """Run work that starts now and stops at ``until`` at the latest. Returns when it ends, and how much of it is
        left.

        Calls must not go back in time.
        """
        waking = now > self._ran_until
        while cpu_s > 0 and now < until:
            self._grant(now)
            if waking and self._left <= EPSILON * self.quota_s:
                # The device stops until the debt is paid and new time is granted.
                now = self._period_at + (math.floor(-self._left / self.quota_s + EPSILON) + 1) * self.period_s
                if now >= until:
                    return until, cpu_s
                self._grant(now)
            ticks = math.floor((now - self._tick_at) / self.tick_s + EPSILON) + 1
            to_tick = self._tick_at + ticks * self.tick_s - now
            # A new period begins with its quota, and not with what is left of it at the next tick.
            ran = min(cpu_s, to_tick, max(self._period_at + self.period_s - now, EPSILON * self.period_s), until - now)
            now, cpu_s = now + ran, cpu_s - ran
            self._left -= ran
            position = (now - self._tick_at) / self.tick_s
            waking = abs(position - round(position)) <= 4 * EPSILON  # the balance is checked at a tick as on a wake-up
        self._ran_until = now
        return now, cpu_s

    def _grant(self, now: float) -> None:
        periods = math.floor((now - self._period_at) / self.period_s + EPSILON)
        if periods > 0:
            self._period_at += periods * self.period_s
            self._left = max(self._left, min(self._left + periods * self.quota_s, self.quota_s))


def after_rest_s(device: Device, seconds: float, phases: int = 16) -> float:
    """The time after a rest for work that takes ``seconds`` in the long run, averaged over its start within a period."""
    if device.share == 1:
        return seconds
    starts = [((i + 0.5) / phases, (7 * i % phases + 0.5) / phases) for i in range(phases)]
    quotas = [Quota(device.share, device.period_s, device.tick_s, start) for start in starts]
    return sum(quota.run(0.0, device.share * seconds)[0] for quota in quotas) / phases


class Processor:
    """One rank's processor. Without a quota it does everything at once: the device has cores for its messages beside the
    program. ``worked_s``: the sum of all its work."""

    def __init__(self, env: simpy.Environment, device: Device, chance: random.Random) -> None:
        import simpy

        self._env = env
        self._share = device.share
        self.worked_s = 0.0
        self._quota: Quota | None = None
        if device.share < 1:
            phases = (chance.random(), chance.random())
            self._quota = Quota(device.share, device.period_s, device.tick_s, phases)
            self._turn = simpy.PriorityResource(env)
            self._wanted: simpy.Event = env.event()
            self._urgent = 0

    def work(self, seconds: float, *, urgent: bool = False) -> Generator[Any, Any, None]:
        """Do work that takes ``seconds`` in the long run. On a throttled processor the program waits for ``urgent`` work:
        a thread that mostly sleeps, such as a transport's, is scheduled first."""
        if seconds <= 0:
            return
        self.worked_s += seconds
        if self._quota is None:
            yield self._env.timeout(seconds)
            return
        self._urgent += urgent
        if urgent and not self._wanted.triggered:
            self._wanted.succeed()
        left = seconds * self._share
        while left > 0:
            with self._turn.request(priority=0 if urgent else 1) as turn:
                yield turn
                left = yield from (self._all(left) if urgent else self._until_wanted(left))
        self._urgent -= urgent

    def _all(self, cpu_s: float) -> Generator[Any, Any, float]:
        assert self._quota is not None
        end, _ = self._quota.run(self._env.now, cpu_s)
        yield self._env.timeout(end - self._env.now)
        return 0.0

    def _until_wanted(self, cpu_s: float) -> Generator[Any, Any, float]:
        assert self._quota is not None
        if self._urgent:
            return cpu_s
        begin, before = self._env.now, copy(self._quota)
        end, _ = self._quota.run(begin, cpu_s)
        self._wanted = self._env.event()
        yield self._env.timeout(end - begin) | self._wanted
        if self._env.now >= end:
            return 0.0
        self._quota = before
        return self._quota.run(begin, cpu_s, self._env.now)[1]


class Turn:
    """A rank's steps that compute take turns: of those that wait the one of the oldest inference is next."""

    def __init__(self, env: simpy.Environment) -> None:
        self._env = env
        self._taken = False
        self._waiting: list[tuple[int, int, simpy.Event]] = []
        self._asked = 0

    def take(self, number: int) -> Generator[Any, Any, None]:
        """Wait for the turn of a step of this inference."""
        if self._taken or (self._waiting and self._waiting[0][0] < number):
            self._asked += 1
            event = self._env.event()
            heapq.heappush(self._waiting, (number, self._asked, event))
            yield event
        self._taken = True

    def give(self) -> None:
        """The step is done; its inference's next one may take the turn again at the same moment."""
        self._taken = False
        if self._waiting:
            self._env.process(self._pass_on())

    def _pass_on(self) -> Generator[Any, Any, None]:
        yield self._env.timeout(0.0)
        if self._waiting and not self._taken:
            self._taken = True
            heapq.heappop(self._waiting)[2].succeed()


class Card:
    """One direction of a rank's network card: bytes are sent, or received, one after the other."""

    def __init__(self, s_per_byte: float, burst_bytes: float) -> None:
        self.s_per_byte = s_per_byte
        self._ahead_s = burst_bytes * s_per_byte
        self._due = 0.0

    def pass_s(self, now: float, seconds: float) -> float:
        """The time until data that occupies the card for so many seconds has passed, if queued now."""
        self._due = max(self._due, now) + seconds
        return max(0.0, self._due - self._ahead_s - now)
