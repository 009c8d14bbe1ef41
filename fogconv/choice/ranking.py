"""Ranking: the models that meet all limits, the most accurate first; then the others, the nearest first."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from fogconv.choice.candidate import Candidate, Limits, candidate
from fogconv.hardware.topology import Topology
from fogconv.zoo.accuracy import accuracies


@dataclass(frozen=True, slots=True)
class Ranking:
    """``others``: models that miss a limit. ``untried``: less accurate ones, which were not asked for."""

    meeting: tuple[Candidate, ...]
    others: tuple[Candidate, ...]
    untried: tuple[str, ...]


def by_accuracy(names: Iterable[str]) -> list[str]:
    """The most accurate first; models without a published accuracy are the last."""
    known = accuracies()
    return sorted(names, key=lambda name: (-known[name].top1 if name in known else 0.0, name))


def ranked(
    names: Sequence[str],
    topology: Topology,
    limits: Limits,
    *,
    most: int | None = None,
    scheme: str | None = None,
    progress: Callable[[str, int, int], None] = lambda name, done, meeting: None,
) -> Ranking:
    """Try models by their accuracy until ``most`` of them meet the limits (None: all models).

    ``progress`` is called before each, with its name, how many are done and how many of these meet the limits. Raises
    InputError for an unknown model or scheme.
    """
    order = by_accuracy(names)
    meeting: list[Candidate] = []
    others: list[Candidate] = []
    for done, name in enumerate(order):
        if most is not None and len(meeting) >= most:
            break
        progress(name, done, len(meeting))
        found = candidate(name, topology, limits, scheme)
        (meeting if found.meets_all else others).append(found)
    nearest = sorted(others, key=lambda each: each.worst)
    return Ranking(tuple(meeting), tuple(nearest), tuple(order[len(meeting) + len(others) :]))
