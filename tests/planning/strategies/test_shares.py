"""Which rank gets which rows: the slowest ranks have the places with one neighbour, and equal ones keep their order."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fogconv.hardware.topology import Topology
from fogconv.planning.strategies.shares import Shares
from tests.chains import chain


def shares(rates: list[float]) -> Shares:
    topology = Topology.uniform(len(rates), 1e9, 1e8)
    for rank, rate in enumerate(rates):
        topology = topology.replace_device(rank, topology.devices[rank].scaled(rate))
    return Shares(chain(8, 8), topology, None, sharers=None, drifting=False, offloading=False)


def test_equal_ranks_keep_their_order() -> None:
    assert shares([1.0, 1.1, 0.95, 1.05]).places == (0, 1, 2, 3)


def test_the_slowest_are_outermost_and_the_fastest_in_the_middle() -> None:
    ours = shares([0.2, 0.1, 0.1, 0.05, 0.05])
    assert ours.places == (3, 1, 0, 2, 4)
    starts = [(span.start, rank) for rank, span in enumerate(ours.row_spans(100))]
    assert [rank for _, rank in sorted(starts)] == [3, 1, 0, 2, 4]


@given(st.lists(st.sampled_from([0.25, 0.5, 1.0, 4.0]), min_size=1, max_size=9), st.integers(1, 80))
def test_the_rows_of_all_places_follow_each_other(rates: list[float], height: int) -> None:
    ours = shares(rates)
    assert sorted(ours.places) == list(range(len(rates)))
    for spans in (ours.row_spans(height), ours.aligned_spans(height)):
        rows = [row for rank in ours.places for row in range(spans[rank].start, spans[rank].stop)]
        assert rows == list(range(height))


def test_a_row_that_remains_is_not_the_masters() -> None:
    assert [len(span) for span in shares([1.0] * 3).row_spans(13)] == [4, 4, 5]
    assert [len(span) for span in shares([1.0, 1.0, 2.0]).row_spans(14)] == [3, 4, 7]
