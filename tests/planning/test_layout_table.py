"""Layouts by number: unions and relabelling keep what is held, and a detour is taken only where it is cheaper."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fogconv.hardware.topology import Topology
from fogconv.ir.geometry import Region, Span
from fogconv.ir.layout import Layout, on, replicate, shard_rows
from fogconv.ir.shard import split
from fogconv.planning.cost import Prices
from fogconv.planning.layout_table import LayoutBook

WHOLE = Region.whole(6, 7, 5)

spans = st.builds(lambda a, n: Span(a, a + n), st.integers(0, 4), st.integers(1, 3))
boxes = st.lists(st.builds(lambda c, r: Region(c, r, Span(0, 5)), spans, spans), max_size=4)
layouts = st.builds(lambda held: Layout(tuple(map(tuple, held))), st.lists(boxes, min_size=3, max_size=3))


def book(ranks: int = 3, bandwidth_bytes_per_s: float = 1e8) -> LayoutBook:
    return LayoutBook(Prices(Topology.uniform(ranks, 1e9, bandwidth_bytes_per_s, 1e-4)))


def covered(regions: tuple[Region, ...]) -> NDArray[np.int64]:
    grid = np.zeros((12, 12, 5), np.int64)
    for region in regions:
        grid[region.channels.slice(), region.rows.slice(), region.columns.slice()] += 1
    return grid


@given(layouts, layouts)
@settings(deadline=None)
def test_a_union_holds_both_and_nothing_twice(a: Layout, b: Layout) -> None:
    numbers = book()
    # Layouts in the book are disjoint per rank, as everything that was held before is.
    first = numbers.union(numbers.number(Layout(((), (), ()))), numbers.number(a))
    both = numbers[numbers.union(first, numbers.number(b))]
    for rank in range(3):
        expected = (covered(a.regions[rank]) + covered(b.regions[rank])) > 0
        assert np.array_equal(covered(both.regions[rank]), expected)


def test_relabelling_shifts_channels_and_drops_what_falls_outside() -> None:
    numbers = book(2)
    held = numbers.number(on(1, Region.whole(6, 2, 2), 2))
    inside = numbers[numbers.relabel(((held, -2),), Region.whole(3, 2, 2))]
    assert inside.regions == ((), (Region.whole(3, 2, 2),))


def test_one_tensor_to_many_goes_by_scatter_and_exchange() -> None:
    """Direct, the master's card carries four copies; scattered, one, and the workers' cards the rest."""
    numbers = book(5, 1e6)
    whole = Region.whole(64, 40, 40)
    everywhere = numbers.number(replicate(whole, 5))
    first, second, via = numbers.move(numbers.number(on(0, whole, 5)), everywhere)
    assert second is not None and via is not None
    direct = 4 * whole.elements * 4 / 1e6
    assert first.seconds + second.seconds < 0.6 * direct
    assert max(sent for sent, _ in first.card_bytes) < whole.elements * 4 * 1.01


def test_what_is_spread_already_takes_no_detour() -> None:
    numbers = book(4)
    whole = Region.whole(8, 16, 16)
    rows = numbers.number(shard_rows(whole, split(16, [1.0] * 4)))
    _, second, via = numbers.move(rows, numbers.number(replicate(whole, 4)))
    assert second is None and via is None


def test_bringing_nothing_costs_nothing() -> None:
    numbers = book(3)
    held = numbers.number(replicate(WHOLE, 3))
    traffic, _, _ = numbers.move(held, numbers.number(on(0, WHOLE, 3)))
    assert traffic.seconds == 0
