"""Which buffers of a program lie in the same memory: those that are never in use at the same time.

A map that is written where another was read a moment ago is written into the cache. With memory of its own for each map, all
of it goes through the caches in each inference: depthwise layers, which compute little per byte, then take two to four
times what they take alone.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterable, Sequence
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
    `fogconv.ir.memory.contents`), sizes, margins and precisions must be equal, or no other may lie there. A step writes what
    others read before they do, in each inference, so that nothing else is expected. Maps that may be narrow (see
    `fogconv.cluster.executor.buffer_widths`) lie alone, too: their lanes would be others'. Steps that are done ``together``
    (first, count) use all of their buffers at the same time.
    """
    first, last = _used(program, together, apart)
    expected = contents.expected(program)

    def kind(buffer: int) -> Any:
        return _form(program.buffers[buffer]) if buffer in expected.finite else None

    sizes: dict[int, int] = {}  # of the memories, by their first buffers
    holds: dict[int, int] = {}  # the buffer that lay in each memory last
    found: dict[int, int] = {}  # the first buffer of the memory in which each lies
    busy: list[tuple[int, int]] = []  # a heap of the last steps that use the buffers so far
    free: dict[Any, list[int]] = {}  # memories by kind
    for buffer in sorted(first, key=lambda buffer: first[buffer]):
        while busy and busy[0][0] < first[buffer]:
            _, ended = heapq.heappop(busy)
            free.setdefault(kind(ended), []).append(found[ended])
        shares = len(program.buffers[buffer].region.channels) > NARROW and buffer not in expected.alone
        waiting = free.get(kind(buffer)) if shares else None
        size = buffer_bytes(program, buffer)
        found[buffer] = buffer
        if waiting:
            # The one that grows least; of several one whose margin stays; of these the last one used, as most of it is
            # still in the cache.
            form = _form(program.buffers[buffer])
            order = [(max(0, size - sizes[each]), _form(program.buffers[holds[each]]) != form) for each in waiting]
            found[buffer] = waiting.pop(min(reversed(range(len(waiting))), key=order.__getitem__))
        sizes[found[buffer]] = max(size, sizes.get(found[buffer], 0))
        holds[found[buffer]] = buffer
        if shares:
            heapq.heappush(busy, (last[buffer], buffer))
    numbers: dict[int, int] = {}
    return [
        NOWHERE if buffer in apart else numbers.setdefault(found.get(buffer, buffer), len(numbers))
        for buffer in range(len(program.buffers))
    ]


def cleared(program: Program, places: Sequence[int], together: Iterable[tuple[int, int]] = ()) -> dict[int, tuple[int, ...]]:
    """The buffers whose margins must become zeros before a step, by the step: those before which a buffer of another form
    lay in their memory, ahead of the first step that uses them. For the first of an inference that may be any other one, as
    the inference before may have ended early. ``together``: as for `memories`."""
    first, _ = _used(program, together)
    tenants: dict[int, list[int]] = {}
    for number in sorted(first, key=lambda number: first[number]):
        tenants.setdefault(places[number], []).append(number)
    tenants.pop(NOWHERE, None)
    found: dict[int, tuple[int, ...]] = {}
    for numbers in tenants.values():
        forms = [_form(program.buffers[number]) for number in numbers]
        for at, number in enumerate(numbers):
            others = forms if at == 0 else forms[at - 1 : at]
            if any(program.buffers[number].margin) and any(other != forms[at] for other in others):
                found[first[number]] = (*found.get(first[number], ()), number)
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
