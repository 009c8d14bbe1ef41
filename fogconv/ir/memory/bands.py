"""Bands: consecutive steps that are computed a few rows at a time, so that the maps between them stay in the cache.

    1×1 → depthwise 3×3 → 1×1      band 1   rows 0 … 8 of the first map between, of the second, of the result
                                   band 2   two rows are kept, the next ones are made, …

A map between two such steps is never there as a whole: its rows of a band lie in a memory of their own, where the rows that
the next band reads again are moved up. The steps of a band are the program's own, on fewer rows, so that the result is the
same to the last bit. Each thread computes rows of the last map of its own, and those of the maps between that these need.

Convs that Winograd's algorithm may compute are left as they are, those on bytes where it does: it has sets of tiles of its
own, and reads all of its weights for each. A map that a second step reads is kept, too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import msgspec

from fogconv.ir import steps as ir
from fogconv.ir.geometry import NARROW, Span
from fogconv.ir.memory.algorithm import QUANTIZED, Choose, candidates, cheapest, packed_bytes
from fogconv.ir.memory.sharing import NOWHERE, buffer_bytes, cleared, memories
from fogconv.ir.program import Program, buffers_of

LEAST_BYTES = 1 << 20
"""A map between two steps that takes less stays in the second-level cache anyway: from half of it on, mobilenet_v2 gained no
more, and resnet50 lost 3 %."""

BAND_BYTES = 384 * 1024
"""What the rows between the steps may take at a time: a share of the second-level cache. Half as much or half more
gained less."""

WEIGHT_BYTES = 96 * 1024
"""A conv's weights are read again for each band: no more of them than stay in the cache, too."""

LEAST_ROWS = 2
"""Of the last map, in a band. With a single row a conv could be a fully connected layer, which has other weights."""

MOST_BANDS = 256


@dataclass(frozen=True, slots=True)
class Piece:
    """A step of a band. ``step``: the one of the program's that it is a part of; for a copy, the one that reads what is
    moved."""

    step: int
    part: ir.AnyStep


@dataclass(frozen=True, slots=True)
class Walk:
    """``count`` steps of the program from the ``first`` on, as each thread does them."""

    first: int
    count: int
    shares: tuple[tuple[Piece, ...], ...]


@dataclass(frozen=True, slots=True)
class Banded:
    """A program whose ``buffers`` are followed by those of the bands. ``places``: the memory of each buffer, or NOWHERE for
    a map that is never there as a whole; ``sizes``: bytes of each memory; ``cleared``: by the number of a step, the buffers
    whose margins become zeros before it."""

    buffers: tuple[ir.Buffer, ...]
    places: tuple[int, ...]
    sizes: Mapping[int, int]
    walks: tuple[Walk, ...]
    cleared: Mapping[int, tuple[int, ...]]


def banded(program: Program, threads: int = 1, choose: Choose = cheapest) -> Banded:
    """How so many threads of one rank compute a program; ``choose``: the algorithm of a conv on bytes."""
    walks: list[Walk] = []
    buffers, memory = list(program.buffers), dict[int, str]()
    between: set[int] = set()
    for first, count in _runs(program, choose):
        plan = _Plan(program, first, count, len(buffers))
        shares = plan.shares(threads)
        if shares is None:
            continue
        walks.append(Walk(first, count, shares))
        memory |= {len(buffers) + number: name for number, name in enumerate(plan.names)}
        buffers += plan.buffers
        between |= {program.steps[step].target for step in range(first, first + count - 1)}  # type: ignore[union-attr]
    together = [(walk.first, walk.count) for walk in walks]
    places = memories(program, together, between)
    clearings = cleared(program, places, together)
    following = 1 + max(places, default=NOWHERE)
    numbers: dict[str, int] = {}
    for number in range(len(program.buffers), len(buffers)):
        places.append(numbers.setdefault(memory[number], following + len(numbers)))
    sizes: dict[int, int] = {}
    whole = msgspec.structs.replace(program, buffers=tuple(buffers))
    for number, place in enumerate(places):
        if place != NOWHERE:
            sizes[place] = max(0, sizes.get(place, 0), buffer_bytes(whole, number))
    return Banded(tuple(buffers), tuple(places), sizes, tuple(walks), clearings)


def _runs(program: Program, choose: Choose) -> Iterator[tuple[int, int]]:
    """(first step, number of steps) of which each reads what the one before it made, and no other step does."""
    users: dict[int, list[int]] = {}
    for number, step in enumerate(program.steps):
        for buffer in set(buffers_of(step)):
            users.setdefault(buffer, []).append(number)
    first = 0
    for number in range(1, len(program.steps) + 1):
        if number < len(program.steps) and _linked(program, number - 1, users, choose):
            continue
        if number - first > 1:
            yield first, number - first
        first = number


def _linked(program: Program, number: int, users: Mapping[int, Sequence[int]], choose: Choose) -> bool:
    """Whether the map between a step and the next one need not be there as a whole."""
    step, reader = program.steps[number : number + 2]
    if not (_by_rows(program, step, choose) and _by_rows(program, reader, choose)):
        return False
    assert isinstance(step, ir.Conv | ir.Pool) and isinstance(reader, ir.Conv | ir.Pool)
    held = program.buffers[step.target].region
    return (
        step.target == reader.source
        and step.target != (reader.residual if isinstance(reader, ir.Conv) else None)
        and users[step.target] == [number, number + 1]
        and step.target_region == held
        and reader.source_region.channels == held.channels
        and reader.source_region.columns == held.columns
        and len(held.channels) > NARROW
        and buffer_bytes(program, step.target) >= LEAST_BYTES
    )


def _by_rows(program: Program, step: ir.AnyStep, choose: Choose) -> bool:
    """Whether some rows of its target can be computed as well as all, by one kernel."""
    if {program.buffers[buffer].precision.element for buffer in buffers_of(step)} not in ({"fp32"}, {"uint8"}):
        return False
    if isinstance(step, ir.Conv):
        known = candidates(step.spec)
        if known[0] == QUANTIZED and choose(step.spec) == QUANTIZED:
            known = known[:1]
        if len(known) > 1 or known[0] in ("linear", "grouped") or step.weight in program.swapped:
            return False
        return packed_bytes(step.spec, known[0]) <= WEIGHT_BYTES
    return isinstance(step, ir.Pool)


class _Plan:
    """The bands of one run of steps. Raises nothing: ``shares`` is None where it can't be cut."""

    def __init__(self, program: Program, first: int, count: int, following: int) -> None:
        self.program, self.first = program, first
        self.steps: list[ir.Conv | ir.Pool] = list(program.steps[first : first + count])  # type: ignore[arg-type]
        self.following = following
        self.buffers: list[ir.Buffer] = []
        self.names: list[str] = []

    def shares(self, threads: int) -> tuple[tuple[Piece, ...], ...] | None:
        rows = self.steps[-1].target_region.rows
        each = self._rows_of_a_band()
        if each is None or len(rows) < each + LEAST_ROWS:
            return None
        cuts = [rows.start + len(rows) * part // threads for part in range(threads + 1)]
        found = []
        for thread, (start, stop) in enumerate(pairwise(cuts)):
            if stop - start < LEAST_ROWS or (share := self._share(thread, Span(start, stop), each)) is None:
                return None
            found.append(share)
        return tuple(found)

    def _rows_of_a_band(self) -> int | None:
        """Of the last map; None where a band of the fewest rows takes too much memory, or there would be too many."""
        rows = self.steps[-1].target_region.rows
        best = None
        size = LEAST_ROWS
        while size < len(rows):
            if self._bytes(size) > BAND_BYTES and best is not None:
                break
            best, size = size, size + max(1, size // 4)
        if best is None or len(rows) > best * MOST_BANDS or self._bytes(best) > 2 * BAND_BYTES:
            return None
        return best

    def _bytes(self, rows: int) -> int:
        """Of the maps between, for so many rows of the last one."""
        total = 0
        for step in reversed(self.steps[1:]):
            kernel, stride, dilation = step.spec.kernel[0], step.spec.stride[0], step.spec.dilation[0]
            rows = (rows - 1) * stride + dilation * (kernel - 1) + 1
            held = self.program.buffers[step.source].region
            total += buffer_bytes(self.program, step.source) * rows // max(1, len(held.rows))
        return total

    def _share(self, thread: int, rows: Span, each: int) -> tuple[Piece, ...] | None:
        """What one thread does to make some rows of the last map."""
        needs: list[list[tuple[Span, Span]]] = []  # for each band and step: the rows that it makes, and those that it reads
        made: list[int | None] = [None] * len(self.steps)
        for band in _cut(rows, each):
            wanted = band
            found: list[tuple[Span, Span]] = []
            for number in reversed(range(len(self.steps))):
                step, done = self.steps[number], made[number]
                new = wanted if done is None else Span(max(done, wanted.start), wanted.stop)
                read = source_rows(step, new) if new else None
                if read is None or read not in step.source_region.rows:
                    return None
                made[number], wanted = new.stop, read
                found.append((new, read))
            needs.append(found[::-1])
        pieces: list[Piece] = []
        held: list[tuple[int, Span] | None] = [None] * len(self.steps)  # the buffer that each step reads
        layouts = [
            self._layout(thread, number, [ranges[number][1] for ranges in needs]) for number in range(len(self.steps))
        ]
        for at, ranges in enumerate(needs):
            for number in range(1, len(self.steps)):
                buffer = layouts[number][at]
                pieces += self._kept(number, held[number], (buffer, ranges[number][1]))
                held[number] = (buffer, ranges[number][1])
            for number, step in enumerate(self.steps):
                new, span = ranges[number]
                source = step.source if not number else layouts[number][at]
                target = step.target if number == len(self.steps) - 1 else layouts[number + 1][at]
                pieces.append(Piece(self.first + number, _part(step, source, span, target, new)))
        return tuple(pieces)

    def _layout(self, thread: int, number: int, reads: Sequence[Span]) -> list[int]:
        """The buffers of all bands for what a step reads, in one memory: at its top below the padding, but for what ends
        with the map, which lies above the padding at its bottom."""
        if not number:
            return []
        step, most = self.steps[number], max(map(len, reads))
        whole = self.program.buffers[step.source]
        top, bottom, left, right = step.spec.padding
        found = []
        for read in reads:
            spare = most - len(read)
            above = spare if read.stop == step.source_region.rows.stop else 0
            margin = (top + above, bottom + spare - above, left, right)
            found.append(self.following + len(self.buffers))
            self.buffers.append(msgspec.structs.replace(whole, region=whole.region.with_rows(read), margin=margin))
            self.names.append(f"{self.first} {thread} {number}")
        return found

    def _kept(self, number: int, before: tuple[int, Span] | None, now: tuple[int, Span]) -> Iterator[Piece]:
        """Move the rows that are there already, in an order in which none is overwritten before it was moved."""
        if before is None:
            return
        (source, old), (target, new) = before, now
        rows = range(max(old.start, new.start), min(old.stop, new.stop))
        from_top = [self.buffers[buffer - self.following].margin[0] - span.start for buffer, span in (before, now)]
        if from_top[0] == from_top[1]:
            return
        step = self.steps[number]
        whole = self.program.buffers[step.source].region
        for row in rows if from_top[1] < from_top[0] else reversed(rows):
            yield Piece(self.first + number, ir.Copy(step.layer, source, whole.with_rows(Span(row, row + 1)), target))


def source_rows(step: ir.Conv | ir.Pool, rows: Span) -> Span | None:
    """The rows of its source that a step reads to make some rows of its target; None where they are all padding."""
    spec = step.spec
    if isinstance(step, ir.Conv):
        origin, first = step.source_region.rows.start, rows.start - step.target_region.rows.start
    else:
        origin, first = 0, rows.start
    start = first * spec.stride[0] - spec.padding[0]
    stop = start + (len(rows) - 1) * spec.stride[0] + spec.dilation[0] * (spec.kernel[0] - 1) + 1
    found = Span(origin + max(0, start), origin + min(spec.height, stop))
    return found if len(found) > 0 else None


def _part(step: ir.Conv | ir.Pool, source: int, read: Span, target: int, rows: Span) -> ir.AnyStep:
    """The step on some rows, in other buffers."""
    places: dict[str, Any] = {
        "source": source,
        "source_region": step.source_region.with_rows(read),
        "target": target,
        "target_region": step.target_region.with_rows(rows),
    }
    if isinstance(step, ir.Pool):
        return msgspec.structs.replace(step, **places)
    spec = step.spec
    _, _, left, right = spec.padding
    start = (rows.start - step.target_region.rows.start) * spec.stride[0] - spec.padding[0]
    stop = start + (len(rows) - 1) * spec.stride[0] + spec.dilation[0] * (spec.kernel[0] - 1) + 1
    padding = (max(0, -start), max(0, stop - spec.height), left, right)
    if step.residual_region is not None:
        first = step.residual_region.rows.start + rows.start - step.target_region.rows.start
        places["residual_region"] = step.residual_region.with_rows(Span(first, first + len(rows)))
    return msgspec.structs.replace(step, spec=replace(spec, height=len(read), padding=padding), **places)


def _cut(rows: Span, each: int) -> list[Span]:
    """As few bands of at most so many rows as possible, as equal as possible."""
    count = -(-len(rows) // each)
    cuts = [rows.start + len(rows) * part // count for part in range(count + 1)]
    return [Span(start, stop) for start, stop in pairwise(cuts)]
