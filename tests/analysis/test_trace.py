"""A timeline: one process per rank, times in µs, nothing drawn over anything else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fogconv.analysis.trace import to_json, write_trace
from fogconv.errors import InputError
from fogconv.simulation.event import Event

EVENTS = (
    Event(1, "conv1", 12.0, 12.5, "conv"),
    Event(0, "send", 11.0, 12.0, "send", "transmit"),
    Event(0, "send", 11.5, 12.25, "send", "transmit"),
    Event(0, "wait", 12.25, 12.75, "wait"),
)


def test_the_timeline_starts_at_zero_and_counts_in_microseconds() -> None:
    document = json.loads(to_json(EVENTS))
    spans = {
        (event["pid"], event["name"], event["ts"]): event["dur"] for event in document["traceEvents"] if event["ph"] == "X"
    }
    assert spans == {
        (1, "conv1", 1e6): 5e5,
        (0, "send", 0): 1e6,
        (0, "send", 5e5): 7.5e5,
        (0, "wait", 1.25e6): 5e5,
    }


def test_ranks_are_named_processes_in_order() -> None:
    metadata = [event for event in json.loads(to_json(EVENTS, {1: "pi5"}))["traceEvents"] if event["name"] == "process_name"]
    assert [(event["pid"], event["args"]["name"]) for event in metadata] == [(0, "rank 0: master"), (1, "rank 1: pi5")]


def test_events_that_overlap_get_lanes_of_their_own() -> None:
    document = json.loads(to_json(EVENTS))
    by_lane: dict[tuple[int, int], list[tuple[float, float]]] = {}
    for event in document["traceEvents"]:
        if event["ph"] == "X":
            by_lane.setdefault((event["pid"], event["tid"]), []).append((event["ts"], event["ts"] + event["dur"]))
    assert len(by_lane) == 4
    for spans in by_lane.values():
        for (_, end), (begin, _) in zip(sorted(spans), sorted(spans)[1:], strict=False):
            assert begin >= end
    named = {(event["pid"], event["tid"]) for event in document["traceEvents"] if event["name"] == "thread_name"}
    assert named == set(by_lane)


def test_an_empty_timeline_is_valid() -> None:
    assert json.loads(to_json([])) == {"traceEvents": [], "displayTimeUnit": "ms"}


def test_an_event_that_ends_before_it_begins_is_refused() -> None:
    with pytest.raises(InputError, match="before it begins"):
        to_json([Event(0, "x", 1.0, 0.5, "conv")])


def test_a_trace_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    write_trace(tmp_path / "trace.json", EVENTS)
    assert json.loads((tmp_path / "trace.json").read_text())["displayTimeUnit"] == "ms"
    with pytest.raises(InputError, match="can't be written"):
        write_trace(tmp_path / "no" / "trace.json", EVENTS)
