"""Which buffers of a program lie in the same memory: those that are never in use at the same time.

A map that is written where another was read a moment ago is written into the cache. With memory of its own for each map, all
of it goes through the caches in each inference: depthwise layers, which compute little per byte, then take two to four
times what they take alone.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterable
from typing import Any

from fogconv.ir import steps as ir
from fogconv.ir.geometry import BLOCK, NARROW
from fogconv.ir.program import Program, buffers_of

NOWHERE = -1
"""The place of a map that is never there as a whole."""


def memories(program: Program, together: Iterable[tuple[int, int]] = (), apart: Collection[int] = ()) -> list[int]:
    """The number of the memory in which each buffer lies, from 0 on; NOWHERE for those ``apart``.

    Two buffers lie in one where every step that uses one comes before every step that uses the other. Whole blocks of
    channels without a margin share whatever their sizes; the others only where sizes, margins and precisions are equal, as
    the zeros around a map must stay, and the lanes beyond the last channel must not keep another map's NaN: a fully
    connected layer multiplies them by 0. A step writes what others read before they do, in each inference, so that nothing
    is expected in a buffer beforehand. Maps that may be narrow (see `fogconv.cluster.executor.buffer_widths`) lie alone:
    their lanes would be others'. Steps that are done ``together`` (first, count) use all of their buffers at the same time.
    """
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
    found: dict[int, int] = {}  # the first buffer of the memory in which each lies
    busy: list[tuple[int, int]] = []  # a heap of the last steps that use the buffers so far
    free: dict[Any, list[int]] = {}  # memories by kind
    for buffer in sorted(first, key=lambda buffer: first[buffer]):
        while busy and busy[0][0] < first[buffer]:
            _, ended = heapq.heappop(busy)
            free.setdefault(_kind(program.buffers[ended]), []).append(found[ended])
        # Of those that are free the last one used: most of it is still in the cache.
        shares = len(program.buffers[buffer].region.channels) > NARROW
        waiting = free.get(_kind(program.buffers[buffer])) if shares else None
        found[buffer] = waiting.pop() if waiting else buffer
        if shares:
            heapq.heappush(busy, (last[buffer], buffer))
    numbers: dict[int, int] = {}
    return [
        NOWHERE if buffer in apart else numbers.setdefault(found.get(buffer, buffer), len(numbers))
        for buffer in range(len(program.buffers))
    ]


def _kind(buffer: ir.Buffer) -> Any:
    """What is equal for buffers that may share: nothing for whole blocks without a margin."""
    alone = any(buffer.margin) or len(buffer.region.channels) % BLOCK
    return (buffer.region.shape, buffer.margin, buffer.precision) if alone else None


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
