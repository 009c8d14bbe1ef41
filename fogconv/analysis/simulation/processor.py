"""Processor and Card: what a simulated rank computes and talks with, when it may do so by bursts only.

A quota, as containers and hypervisors set it, grants some of the processor's time in each period, and what is left of it
does not add up. It is enforced at the system's ticks only, so that a device overdraws what it has, and then stands still for
as many periods as pay for it:

    period   |         |         |         |         |         |         quota 1 ms in each period of 5 ms
    tick     |       |       |       |       |       |       |       |   every 4 ms
    running  ########                                ########            a long piece of work: 4 ms in 20

A shaped card lets some bytes pass at once after a rest, and then keeps to its rate.
"""

from __future__ import annotations

import math
import random
from collections.abc import Generator
from copy import copy
from typing import TYPE_CHECKING, Any

from fogconv.hardware.topology import Device

if TYPE_CHECKING:
    import simpy

EPSILON = 1e-9
"""Of a period: the rounding of a sum of floats."""


class Quota:
    """The account of one device: what it may still run, in seconds of the processor. ``phases``: how far into a period and
    between two ticks it is at time 0, both from 0 to 1."""

    def __init__(self, share: float, period_s: float, tick_s: float, phases: tuple[float, float] = (0.0, 0.0)) -> None:
        self.period_s, self.tick_s = period_s, tick_s
        self.quota_s = share * period_s
        self._period_at = -phases[0] * period_s
        self._tick_at = -phases[1] * tick_s
        self._left = self.quota_s
        self._ran_until = -math.inf

    def run(self, now: float, cpu_s: float, until: float = math.inf) -> tuple[float, float]:
        """Work that begins now and is broken off at ``until``: when it ends, and how much of it is left then.

        Calls must not go back in time.
        """
        waking = now > self._ran_until
        while cpu_s > 0 and now < until:
            self._grant(now)
            if waking and self._left <= 0:
                # It stands still until the debt is paid and something is granted.
                now = self._period_at + (math.floor(-self._left / self.quota_s) + 1) * self.period_s
                if now >= until:
                    return until, cpu_s
                self._grant(now)
            ticks = math.floor((now - self._tick_at) / self.tick_s + EPSILON) + 1
            ran = min(cpu_s, self._tick_at + ticks * self.tick_s - now, until - now)
            now, cpu_s = now + ran, cpu_s - ran
            self._left -= ran
            waking = True  # at a tick it is looked at as when something wakes
        self._ran_until = now
        return now, cpu_s

    def _grant(self, now: float) -> None:
        periods = math.floor((now - self._period_at) / self.period_s + EPSILON)
        if periods > 0:
            self._period_at += periods * self.period_s
            self._left = max(self._left, min(self._left + periods * self.quota_s, self.quota_s))


def after_rest_s(device: Device, seconds: float, phases: int = 16) -> float:
    """What work that takes so long in the long run takes after a rest, on average over where in a period it begins."""
    if device.share == 1:
        return seconds
    starts = [((i + 0.5) / phases, (7 * i % phases + 0.5) / phases) for i in range(phases)]
    quotas = [Quota(device.share, device.period_s, device.tick_s, start) for start in starts]
    return sum(quota.run(0.0, device.share * seconds)[0] for quota in quotas) / phases


class Processor:
    """One rank's. A free one does all that is asked at once: a device has cores for its messages beside the program.

    ``worked_s``: all that was asked of it."""

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
        """What takes so long in the long run. At a throttled processor the program stands back for what is urgent: a thread
        that mostly sleeps, as a transport's, runs when it wants to."""
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


class Card:
    """One direction of a rank's network card: bytes leave, or come in, one after the other."""

    def __init__(self, s_per_byte: float, burst_bytes: float) -> None:
        self.s_per_byte = s_per_byte
        self._ahead_s = burst_bytes * s_per_byte
        self._due = 0.0

    def pass_s(self, now: float, seconds: float) -> float:
        """How long what occupies the card for so many seconds takes if handed over now, behind what was before it."""
        self._due = max(self._due, now) + seconds
        return max(0.0, self._due - self._ahead_s - now)
