"""Steps that follow one another without Python between them: see `fogconv.kernels.threads.Team`.

From step to step the interpreter takes 1 to 2 µs, and a helper's part would be handed over and joined by calls of its own:
together 4 µs, as long as a small depthwise layer takes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate, groupby

from fogconv.cluster.executor.bands.bound_walk import BoundWalk, idle
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
    """Consecutive steps of a program, each of which consists of compiled calls, or of none."""

    def __init__(self, steps: Sequence[Sequence[Parts]]) -> None:
        self.count = len(steps)
        self._team = Team([parts for step in steps for parts in step])
        self._marks = list(accumulate(map(len, steps)))

    def run(self, first: int, until_ns: int) -> int | None:
        done = self._team.run(first, until_ns)
        return None if done == self._marks[-1] else done

    def ends(self, begin_ns: int) -> list[int]:
        ends = [begin_ns, *self._team.ends()]
        return [ends[mark] for mark in self._marks]


def joined(calls: Sequence[Call]) -> Iterator[Call | Joined]:
    """The calls of a program's steps, those that can be joined as one."""
    if any(isinstance(call, Computing | BoundWalk) for call in calls):
        # A process that compiles beside another has none of its kernels, and so nothing to join.
        ready(run_team, TEAM_SIGNATURE)
    for can_be, group in groupby(((_parts(call), call) for call in calls), key=lambda pair: pair[0] is not None):
        steps = list(group)
        if can_be and any(parts for parts, _ in steps):
            yield JoinedSteps([parts or () for parts, _ in steps])
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
    return compiled_steps(call.bound) if isinstance(call, Computing | BoundWalk) else None
