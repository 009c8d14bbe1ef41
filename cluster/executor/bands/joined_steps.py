"""Steps that follow one another without Python between them: see `fogconv.kernels.threads.Team`.

From step to step the interpreter takes 1 to 2 µs, and a helper's part would be handed over and joined by calls of its own:
together 4 µs, as long as a small depthwise layer takes.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from itertools import accumulate, groupby

from fogconv.cluster.executor.bands.bound_walk import BoundWalk, idle
from fogconv.cluster.executor.bands.direct_messages import DirectMessages, DirectReceive, DirectSend
from fogconv.cluster.executor.interface import Call, Joined, Run
from fogconv.ir.geometry import BLOCK
from fogconv.kernels.codegen.jit import ready
from fogconv.kernels.conv.tile_walk import part
from fogconv.kernels.maps.blocked import Blocked, blocks
from fogconv.kernels.maps.bound import Bound, sequence
from fogconv.kernels.maps.margins import bind_margin
from fogconv.kernels.threads import Parts, Team, compiled_steps, parallel
from fogconv.kernels.walk import TEAM_SIGNATURE, bind_walk, run_team


class Computing:
    """The call of a step that is one kernel's."""

    def __init__(self, bound: Bound) -> None:
        self.bound = bound

    def __call__(self, run: Run) -> None:
        self.bound()


class JoinedSteps(Joined):
    """Consecutive steps of a program: of each its call, and the compiled calls of which it consists, of which there may be
    none. ``messages``: those of the program, if some of the steps are such."""

    def __init__(self, steps: Sequence[tuple[Call, Sequence[Parts]]], messages: DirectMessages | None = None) -> None:
        self.count = len(steps)
        self._messages = messages
        parts = [each for _, parts in steps for each in parts]
        self._team = Team(parts, 0 if messages is None else messages.stop)
        self._marks = list(accumulate(len(parts) for _, parts in steps))
        self._stops: dict[int, tuple[DirectSend | DirectReceive, int]] = {}
        """The messages by the number of calls after which the walk stops at them, with the number of those after them."""
        self._waits: dict[int, int] = {}
        """The steps that wait for a message, with the number of calls after which it has come."""
        begin = 0
        for step, ((call, _), mark) in enumerate(zip(steps, self._marks, strict=True)):
            if isinstance(call, DirectSend):
                self._stops[mark] = call, mark
            elif isinstance(call, DirectReceive):
                self._stops[begin + 1] = call, mark
                self._waits[step] = begin + 1
            begin = mark

    def run(self, run: Run, first: int, until_ns: int) -> int | None:
        messages, last = self._messages, self._marks[-1]
        if messages is None:
            done = self._team.run(first, until_ns)
            return None if done == last else done
        done = first
        while True:
            stopped_at = None
            leased = bool(self._waits) and messages.lease()
            try:
                done = self._team.run(done, until_ns)
                if messages.stopped:
                    stopped_at, mark = self._stops[done]
            finally:
                if leased:
                    messages.end_lease(stopped_at)
            if stopped_at is None:
                return None if done == last else done
            messages.by_python(stopped_at, run)
            if isinstance(stopped_at, DirectReceive):
                self._team.note_end(mark - 1, time.perf_counter_ns())
                self._team.note_end(done - 1, run.ready_ns)
            done = mark
            if done == last:
                return None

    def spans(self, begin_ns: int) -> list[tuple[int, int]]:
        ends = [begin_ns, *self._team.ends()]
        spans, begin = [], begin_ns
        for step, mark in enumerate(self._marks):
            spans.append((ends[self._waits[step]] if step in self._waits else begin, ends[mark]))
            begin = ends[mark]
        return spans


def joined(calls: Sequence[Call], messages: DirectMessages | None = None) -> Iterator[Call | Joined]:
    """The calls of a program's steps, those that can be joined as one."""
    if any(isinstance(call, Computing | BoundWalk | DirectSend | DirectReceive) for call in calls):
        # A process that compiles beside another has none of its kernels, and so nothing to join.
        ready(run_team, TEAM_SIGNATURE)
    for can_be, group in groupby(((_parts(call), call) for call in calls), key=lambda pair: pair[0] is not None):
        steps = list(group)
        if can_be and any(parts for parts, _ in steps):
            talks = any(isinstance(call, DirectSend | DirectReceive) for _, call in steps)
            yield JoinedSteps([(call, parts or ()) for parts, call in steps], messages if talks else None)
        else:
            yield from (call for _, call in steps)


def after_margins(bound: Bound, maps: Sequence[tuple[Blocked, int]]) -> Bound:
    """A kernel's call, before which the margins of some maps get their zero, a byte: by the threads that compute it, each
    ahead of its own part, as no part reads or writes them. Alone one thread took 20 of 100 µs on 960×7×7."""
    steps = compiled_steps(bound)
    if steps is None or len(steps) > 1:
        return sequence([*(bind_margin(x, zero) for x, zero in maps), bound])
    shares = []
    for number, own in enumerate(steps[0]):
        clears = []
        for x, zero in maps:
            first, last = part(blocks(x.channels), number, len(steps[0]))
            channels = slice(BLOCK * first, min(x.channels, BLOCK * last))
            if first < last:
                clears.append(bind_margin(x.view(channels, slice(0, x.height), slice(0, x.width)), zero))
        shares.append(bind_walk([(0, call) for call in (*clears, own)], 1)[0])
    return parallel(shares)


def _parts(call: Call) -> Sequence[Parts] | None:
    """None where a call is not all compiled."""
    if call is idle:
        return ()
    return compiled_steps(call.bound) if isinstance(call, Computing | BoundWalk | DirectSend | DirectReceive) else None
