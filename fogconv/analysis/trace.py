"""Trace: every rank's activities as a timeline that Perfetto (ui.perfetto.dev) and chrome://tracing open.

One row per rank; a rank's network card has its own rows below it where there are such events. The engine's ``--trace``
and the simulator write the same file.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from fogconv.errors import InputError
from fogconv.simulation.event import ROWS, Event


def to_json(events: Iterable[Event], names: Mapping[int, str] | None = None) -> bytes:
    """The Trace Event Format: {"traceEvents": […], "displayTimeUnit": "ms"}; times in µs from the first event on.

    ``names`` are the ranks' device names. A rank is a process of the format, a row a thread. Raises InputError for an
    event that ends before it begins.
    """
    ordered = sorted(events, key=lambda event: (event.begin_s, -event.end_s))
    origin_s = ordered[0].begin_s if ordered else 0.0
    rows = _Rows()
    out: list[dict[str, object]] = []
    for event in ordered:
        if not event.end_s >= event.begin_s:
            raise InputError(
                f"trace: {event.name} on rank {event.rank} ends {event.begin_s - event.end_s:.6f} s before it begins"
            )
        out.append(
            {
                "name": event.name,
                "cat": event.kind,
                "ph": "X",
                "pid": event.rank,
                "tid": rows.of(event),
                "ts": round((event.begin_s - origin_s) * 1e6, 3),
                "dur": round((event.end_s - event.begin_s) * 1e6, 3),
            }
        )
    for rank in sorted({event.rank for event in ordered}):
        role = "master" if rank == 0 else "worker"
        name = (names or {}).get(rank, role)
        out.append(_metadata("process_name", rank, 0, {"name": f"rank {rank}: {name}"}))
        out.append(_metadata("process_sort_index", rank, 0, {"sort_index": rank}))
    for rank, row, tid in rows.names():
        out.append(_metadata("thread_name", rank, tid, {"name": row}))
        out.append(_metadata("thread_sort_index", rank, tid, {"sort_index": tid}))
    return msgspec.json.encode({"traceEvents": out, "displayTimeUnit": "ms"})


def write_trace(path: str | Path, events: Iterable[Event], names: Mapping[int, str] | None = None) -> None:
    """``to_json`` into a file. Raises InputError if it can't be written."""
    try:
        Path(path).write_bytes(to_json(events, names))
    except OSError as error:
        raise InputError(f"trace {path}: can't be written: {error.strerror or error}") from error


class _Rows:
    """Thread ids: a row's first lane, and further lanes for events that overlap (the format draws only nested ones)."""

    def __init__(self) -> None:
        self._lanes: dict[tuple[int, str], list[tuple[float, int]]] = {}
        self._used: dict[tuple[int, str, int], int] = {}

    def of(self, event: Event) -> int:
        lanes = self._lanes.setdefault((event.rank, event.row), [])
        if lanes and lanes[0][0] <= event.begin_s:
            _, lane = heapq.heapreplace(lanes, (event.end_s, lanes[0][1]))
        else:
            lane = len(lanes)
            heapq.heappush(lanes, (event.end_s, lane))
        row = ROWS.index(event.row) if event.row in ROWS else len(ROWS)
        return self._used.setdefault((event.rank, event.row, lane), 1 + row * 1000 + lane)

    def names(self) -> Iterable[tuple[int, str, int]]:
        for (rank, row, lane), tid in self._used.items():
            yield rank, row if lane == 0 else f"{row} {lane + 1}", tid


def _metadata(name: str, rank: int, tid: int, args: dict[str, object]) -> dict[str, object]:
    return {"name": name, "ph": "M", "pid": rank, "tid": tid, "args": args}
