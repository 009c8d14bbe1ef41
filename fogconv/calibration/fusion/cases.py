"""Test cases: operators timed alone and in pairs, and what that says of a runtime.

Two operators are one kernel where the pair takes less than both alone by over half of the shorter one (nn-Meter, Zhang et
al. 2021). The second one alone runs on a map of the size that the first one makes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from fogconv.calibration.fusion.operators import CHAINS, PAIRS, SIDE, Chain, Operator, sides
from fogconv.hardware.latency.kernels import Rules, by_kernels

SAVED = 0.5
"""The least share of the shorter operator that a fused pair saves."""
ROUNDS, RUNS = 15, 3


class Runtime(Protocol):
    """What computes chains of operators."""

    @property
    def name(self) -> str: ...

    def chain(self, operators: Chain, side: int) -> Callable[[], float]:
        """A call that runs the operators once, on a map of ``side`` rows, and returns the seconds."""
        ...


@dataclass(frozen=True, slots=True)
class Case:
    """A pair, and the seconds of both alone and together."""

    first: Operator
    second: Operator
    first_s: float
    second_s: float
    pair_s: float

    @property
    def saved(self) -> float:
        """By how much the pair is shorter, as a share of the shorter operator."""
        return (self.first_s + self.second_s - self.pair_s) / min(self.first_s, self.second_s)

    @property
    def fuses(self) -> bool:
        return self.saved > SAVED


@dataclass(frozen=True, slots=True)
class Trial:
    """A longer chain: what it takes, and what prices say, by the kernels found and by operators alone."""

    operators: Chain
    measured_s: float
    by_kernels_s: float
    by_operators_s: float


@dataclass(frozen=True, slots=True)
class Findings:
    """Of one runtime."""

    runtime: str
    cases: tuple[Case, ...]
    trials: tuple[Trial, ...]

    @property
    def rules(self) -> Rules:
        return frozenset((case.first, case.second) for case in self.cases if case.fuses)

    def as_json(self) -> dict[str, Any]:
        return {
            "cases": [
                {
                    "first": case.first,
                    "second": case.second,
                    "first_s": case.first_s,
                    "second_s": case.second_s,
                    "pair_s": case.pair_s,
                    "saved": case.saved,
                    "fuses": case.fuses,
                }
                for case in self.cases
            ],
            "chains": [
                {
                    "operators": list(trial.operators),
                    "measured_s": trial.measured_s,
                    "by_kernels_s": trial.by_kernels_s,
                    "by_operators_s": trial.by_operators_s,
                }
                for trial in self.trials
            ],
        }


def find(
    runtime: Runtime,
    pairs: Sequence[tuple[Operator, Operator]] = PAIRS,
    chains: Sequence[Chain] = CHAINS,
    rounds: int = ROUNDS,
) -> Findings:
    """Time everything in turns, so that a slower machine slows all of it; each counts as its fastest run."""
    wanted = dict.fromkeys((each, SIDE) for each in (*pairs, *chains))
    alone = dict.fromkeys(each for chain, side in wanted for each in _alone(chain, side))
    calls = {each: runtime.chain(*each) for each in (*alone, *wanted)}
    best = dict.fromkeys(calls, math.inf)
    for _ in range(rounds):
        for each, call in calls.items():
            call()  # the caches are those of other work
            best[each] = min(best[each], *(call() for _ in range(RUNS)))
    cases = tuple(_case(pair, best) for pair in pairs)
    found = Findings(runtime.name, cases, ())
    trials = tuple(_trial(chain, best, found.rules) for chain in chains)
    return Findings(runtime.name, cases, trials)


def _alone(chain: Iterable[Operator], side: int) -> list[tuple[Chain, int]]:
    """Each operator of a chain by itself, on a map as it reads one there."""
    operators = tuple(chain)
    return [((operator,), there) for operator, there in zip(operators, sides(operators, side), strict=False)]


def _case(pair: tuple[Operator, Operator], best: dict[tuple[Chain, int], float]) -> Case:
    first_s, second_s = (best[each] for each in _alone(pair, SIDE))
    return Case(*pair, first_s, second_s, best[pair, SIDE])


def _trial(chain: Chain, best: dict[tuple[Chain, int], float], rules: Rules) -> Trial:
    seconds = [best[each] for each in _alone(chain, SIDE)]
    return Trial(chain, best[chain, SIDE], by_kernels(chain, seconds, rules), sum(seconds))
