"""Which buffers of a program lie in the same memory: those that are never in use at the same time.

A map that is written where another was read a moment ago is written into the cache. With memory of its own for each map, all
of it goes through the caches in each inference: depthwise layers, which compute little per byte, then take two to four
times what they take alone.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from fogconv.ir import steps as ir
from fogconv.ir.geometry import BLOCK, NARROW
from fogconv.ir.memory import contents
from fogconv.ir.program import Program, buffers_of

NOWHERE = -1
"""The place of a map that is never there as a whole."""


def memories(program: Program, together: Iterable[tuple[int, int]] = (), apart: Collection[int] = ()) -> list[int]:
    """The number of the memory in which each buffer lies, from 0 on; NOWHERE for those ``apart``.

    Two buffers lie in one where every step that uses one comes before every step that uses the other. Their sizes don't
    matter, as margins are made zeros again (see `cleared`); where more than a margin is expected beforehand (see
    `fogconv.ir.memory.contents`), sizes, margins and precisions must be equal. A step writes what others read before they
    do, in each inference, so that nothing else is expected. Maps that may be narrow (see
    `fogconv.cluster.executor.buffer_widths`) lie alone: their lanes would be others'. Steps that are done ``together``
    (first, count) use all of their buffers at the same time.
    """
    first, last = _used(program, together, apart)
    expecting = contents.expecting(program)

    def kind(buffer: int) -> Any:
        return _form(program.buffers[buffer]) if buffer in expecting else None

    sizes: dict[int, int] = {}  # of the memories, by their first buffers
    found: dict[int, int] = {}  # the first buffer of the memory in which each lies
    busy: list[tuple[int, int]] = []  # a heap of the last steps that use the buffers so far
    free: dict[Any, list[int]] = {}  # memories by kind
    for buffer in sorted(first, key=lambda buffer: first[buffer]):
        while busy and busy[0][0] < first[buffer]:
            _, ended = heapq.heappop(busy)
            free.setdefault(kind(ended), []).append(found[ended])
        shares = len(program.buffers[buffer].region.channels) > NARROW
        waiting = free.get(kind(buffer)) if shares else None
        size = buffer_bytes(program, buffer)
        found[buffer] = waiting.pop(_fitting(waiting, sizes, size)) if waiting else buffer
        sizes[found[buffer]] = max(size, sizes.get(found[buffer], 0))
        if shares:
            heapq.heappush(busy, (last[buffer], buffer))
    numbers: dict[int, int] = {}
    return [
        NOWHERE if buffer in apart else numbers.setdefault(found.get(buffer, buffer), len(numbers))
        for buffer in range(len(program.buffers))
    ]


def cleared(program: Program, places: Sequence[int], together: Iterable[tuple[int, int]] = ()) -> dict[int, tuple[int, ...]]:
    """The buffers whose margins must become zeros before a step, by the step: those that share their memory with a buffer
    of another form, before the first step that uses them. ``together``: as for `memories`."""
    forms: dict[int, set[Any]] = {}
    for buffer, place in zip(program.buffers, places, strict=True):
        forms.setdefault(place, set()).add(_form(buffer))
    found: dict[int, tuple[int, ...]] = {}
    for number, time in _used(program, together)[0].items():
        place = places[number]
        if any(program.buffers[number].margin) and place != NOWHERE and len(forms[place]) > 1:
            found[time] = (*found.get(time, ()), number)
    return found


def _used(
    program: Program, together: Iterable[tuple[int, int]], apart: Collection[int] = ()
) -> tuple[dict[int, int], dict[int, int]]:
    """The first and the last step that use each buffer; steps that are done together count as their first one."""
    times = list(range(len(program.steps)))
    for begin, count in together:
        times[begin : begin + count] = [begin] * count
    first: dict[int, int] = {}
    last: dict[int, int] = {}
    for time, step in zip(times, program.steps, strict=True):
        for buffer in buffers_of(step):
            if buffer not in apart:
                first.setdefault(buffer, time)
                last[buffer] = time
    return first, last


def _fitting(waiting: Sequence[int], sizes: Mapping[int, int], size: int) -> int:
    """Which of the free memories grows least; of several the last one used, as most of it is still in the cache."""
    return min(reversed(range(len(waiting))), key=lambda at: max(0, size - sizes[waiting[at]]))


def _form(buffer: ir.Buffer) -> Any:
    """What decides where in its memory a buffer's margin and its unused lanes lie."""
    return buffer.region.shape, buffer.margin, buffer.precision


def buffer_bytes(program: Program, buffer: int) -> int:
    """Bytes of a buffer in the blocked layout, its margin included."""
    channels, rows, columns = program.buffers[buffer].region.shape
    top, bottom, left, right = program.buffers[buffer].margin
    lanes = -(-channels // BLOCK) * BLOCK
    elements = program.batch * lanes * (top + rows + bottom) * (left + columns + right)
    return program.buffers[buffer].precision.bytes * elements


def memory_bytes(program: Program) -> dict[int, int]:
    """The size of each memory: of its largest buffer."""
    sizes: dict[int, int] = {}
    for buffer, number in enumerate(memories(program)):
        sizes[number] = max(0, sizes.get(number, 0), buffer_bytes(program, buffer))
    return sizes
