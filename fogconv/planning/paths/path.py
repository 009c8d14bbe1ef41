"""Path: the layers computed so far, each by one option, and where every live tensor is then.

Of the paths to one state the lightest is kept, or the front of those of which none is better in both seconds and joules.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from fogconv.planning.layout_table import LayoutBook
from fogconv.planning.limits.goal import Goal
from fogconv.planning.limits.sought import Sought
from fogconv.planning.strategies.option import Option

MOST_OF_A_FRONT = 16
"""The plans of one search that are simulated where both matter."""
RIVALS = 4
"""The number of cheapest paths that are tried as shorter ways to the others."""


@dataclass(frozen=True, slots=True)
class Choice:
    """How a state was reached: the option taken, the intermediate layouts of its inputs, and the state before."""

    before: Choice | None
    option: Option | None
    via: tuple[tuple[int, int], ...]
    move_s: float
    move_j: float


State = dict[int, int]
"""Tensor → layout number, for the tensors that later layers read."""


Pairs = frozenset[tuple[int, int]]
"""The (sender, receiver) pairs."""


@dataclass(slots=True)
class Path:
    """``weight``: by the goal, of its seconds and joules. ``met`` are the pairs between which a message is sent at the
    start of this stage: more data costs no extra message."""

    weight: float
    seconds: float
    joules: float
    state: State
    last: Choice | None
    met: Pairs = frozenset()

    def beats(self, other: Path) -> bool:
        """Whether the other one is no better in anything."""
        return self.seconds <= other.seconds and self.joules <= other.joules


class Best:
    """The paths worth keeping of those to one layer: the lightest to each state, or its front. ``dead`` tensors are read no
    more."""

    def __init__(self, goal: Goal, dead: Sequence[int]) -> None:
        self._goal, self._dead = goal, dead
        self._by_state: dict[tuple[tuple[int, int], ...], list[Path]] = {}

    def keep(self, seconds: float, joules: float, state: State, choice: Choice | None, met: Pairs) -> None:
        for tensor in self._dead:
            state.pop(tensor, None)
        known = self._by_state.setdefault(tuple(sorted(state.items())), [])
        weight = self._goal.weight(seconds, joules)
        if known and not self._goal.front:
            if weight < known[0].weight:
                known[0] = Path(weight, seconds, joules, state, choice, met)
            return
        path = Path(weight, seconds, joules, state, choice, met)
        if not any(other.beats(path) for other in known):
            known[:] = [*(other for other in known if not path.beats(other)), path]

    @property
    def paths(self) -> list[Path]:
        return [path for known in self._by_state.values() for path in known]

    def in_order(self) -> list[Path]:
        """The lightest first; where both matter, in turns the one of least energy and the fastest of those that are left."""
        by_weight = sorted(self.paths, key=lambda path: path.weight)
        if not self._goal.front:
            return by_weight
        turns = zip(by_weight, sorted(by_weight, key=lambda path: path.seconds), strict=True)
        return list({id(path): path for pair in turns for path in pair}.values())


def spread(goal: Goal, paths: Sequence[Path]) -> list[Path]:
    """The lightest path; of a front MOST_OF_A_FRONT at most, evenly spread over it, with both its ends."""
    if not goal.front:
        return [min(paths, key=lambda path: path.weight)]
    front = sorted(paths, key=lambda path: path.seconds)
    step = max(1.0, (len(front) - 1) / (MOST_OF_A_FRONT - 1))
    return [front[round(i * step)] for i in range(min(len(front), MOST_OF_A_FRONT))]


def worth_keeping(book: LayoutBook, paths: Sequence[Path], beam: int, sought: Sought) -> list[Path]:
    """The ``beam`` first paths, without those whose layouts can be reached from a better path for less than the
    difference."""
    kept: list[Path] = []
    for path in paths:
        if len(kept) == beam:
            break
        if not any(_reaches(book, better, path, sought) for better in kept[:RIVALS]):
            kept.append(path)
    return kept


def _reaches(book: LayoutBook, better: Path, path: Path, sought: Sought) -> bool:
    goal, idle_watts = sought.goal, book.prices.idle_watts
    left, left_s, left_j = path.weight - better.weight, path.seconds - better.seconds, path.joules - better.joules
    for tensor, layout in path.state.items():
        first, second, _ = book.moved(tensor, better.state[tensor], layout)
        if first.pairs and tensor in sought.allowed.still:
            return False
        seconds = first.seconds + (0.0 if second is None else second.seconds)
        joules = first.joules + (0.0 if second is None else second.joules) + idle_watts * seconds
        left, left_s, left_j = left - goal.weight(seconds, joules), left_s - seconds, left_j - joules
        if min(left_s, left_j) < 0 if goal.front else left < 0:
            return False
    return True


def bring(
    book: LayoutBook, state: State, option: Option, there: frozenset[int], met: Pairs, still: frozenset[int]
) -> tuple[State, float, float, tuple[tuple[int, int], ...], Pairs] | None:
    """The state after the transfer of the option's inputs, the seconds, the joules (beyond idle power), the intermediate
    layouts, and the (sender, receiver) pairs for tensors that are ``there`` at the stage's start. None where a tensor would
    be sent that has to be ``still``."""
    after = dict(state)
    busy_s = waiting_s = joules = 0.0
    via: tuple[tuple[int, int], ...] = ()
    for tensor, needed in option.needed:
        held = after[tensor]
        first, second, over = book.moved(tensor, held, needed)
        if first.pairs and tensor in still:
            return None
        if second is None and tensor in there:
            if first.added is not None and first.pairs <= met:
                first = first.added
            met |= first.pairs
        legs = [first] if second is None else [first, second]
        busy_s += sum(leg.cpu_s for leg in legs)
        waiting_s += sum(leg.seconds - leg.cpu_s for leg in legs)
        joules += sum(leg.joules for leg in legs)
        if over is not None:
            via += ((tensor, over),)
            held = book.union(held, over)
        after[tensor] = book.union(held, needed)
    seconds = busy_s + max(0.0, waiting_s - option.hidden_s)
    return after, seconds, joules, via, met


def choices(last: Choice | None) -> Iterator[Choice]:
    found = []
    while last is not None:
        found.append(last)
        last = last.before
    return reversed(found)
