"""Order: what a rank does while it waits. Sends as early as they can be, receives as late, in the order of one rank's steps.

The layers are lowered one after the other, so that a message is sent when the next layer begins, and awaited at once. Other
branches of a network, as in Inception's blocks and beside a ResNet's strided convs, need no message at that time: what leads
to a message is done before what does not, and what needs no message is done before one is awaited. A step never passes one
that it reads from, or that reads or writes where it writes, and no receive passes another receive: every number is computed
from the same ones in the same order.

The paper's star is left as it is: layer by layer.

A send only ever comes earlier among its rank's receives, so that ranks that could not deadlock still can't.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence

from fogconv.ir.geometry import Region
from fogconv.ir.program import places_of
from fogconv.ir.steps import AnyStep, Copy, Input, MapStep, Output, Recv, Send

AHEAD = 24
"""Steps after a receive among which those are sought that need not wait for it; more changed nothing for Inception v3. A
step from far ahead would keep its map in memory for long."""

KNOWN = (MapStep, Send, Recv, Copy, Input, Output)
"""Steps whose places are known; a program with others stays as it is."""

Places = tuple[list[tuple[int, Region]], list[tuple[int, Region]]]
"""(read, written): buffers with regions."""


def ordered(steps: Sequence[AnyStep]) -> list[AnyStep]:
    """The same steps: no receive before work that does not need it."""
    receives = [isinstance(step, Recv) for step in steps]
    if not any(receives) or not all(isinstance(step, KNOWN) for step in steps):
        return list(steps)
    places = [_places(step) for step in steps]
    found: list[int] = []
    rest = list(range(len(steps)))
    while True:
        at = next((place for place, number in enumerate(rest) if receives[number]), None)
        if at is None:
            return [steps[number] for number in found + rest]
        first = rest[at]
        ready, waiting, blocked = rest[:at], [], _Touched()
        blocked.add(places[first])
        for number in rest[at + 1 : at + AHEAD]:
            if receives[number] or blocked.hinders(places[number]):
                waiting.append(number)
                blocked.add(places[number])
            else:
                ready.append(number)
        sends = {number for number in ready if isinstance(steps[number], Send)}
        found += _senders_first(ready, sends, places)
        found.append(first)
        rest = waiting + rest[at + AHEAD :]


def _senders_first(numbers: Sequence[int], sends: Collection[int], places: Sequence[Places]) -> list[int]:
    """Those steps that a send needs, in their order, then the others in theirs."""
    needed, urgent = _Touched(), set()
    for number in reversed(numbers):
        if number in sends or needed.hinders(places[number]):
            urgent.add(number)
            needed.add(places[number])
    return [each for each in numbers if each in urgent] + [each for each in numbers if each not in urgent]


class _Touched:
    """The places that some steps read and write."""

    def __init__(self) -> None:
        self._read: dict[int, list[Region]] = defaultdict(list)
        self._written: dict[int, list[Region]] = defaultdict(list)

    def add(self, places: Places) -> None:
        read, written = places
        for buffer, region in read:
            self._read[buffer].append(region)
        for buffer, region in written:
            self._written[buffer].append(region)

    def hinders(self, places: Places) -> bool:
        """Whether a step with these places must stay on its side of them."""
        read, written = places
        for buffer, region in read:
            if any(region & other for other in self._written.get(buffer, ())):
                return True
        for buffer, region in written:
            if any(region & other for kept in (self._written, self._read) for other in kept.get(buffer, ())):
                return True
        return False


def _places(step: AnyStep) -> Places:
    match step:
        case Send():
            return [(part.buffer, part.region) for part in step.parts], []
        case Recv():
            places = [(part.buffer, part.region) for part in step.parts]
            return places if step.accumulate else [], places
        case Copy():
            return [(step.source, step.region)], [(step.target, step.region.shift_channels(step.shift))]
        case Input():
            return [], [(step.target, step.region)]
        case Output():
            return [(step.source, step.region)], []
        case _:
            assert isinstance(step, MapStep)
            *read, written = places_of(step)
            return read, [written]
