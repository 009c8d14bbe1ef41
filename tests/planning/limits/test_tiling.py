"""Tilings: bands of ranks, whatever their number."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fogconv.errors import InputError
from fogconv.hardware.topology import Topology
from fogconv.planning.limits.tiling import MOST_TILES, Tiling, squarest
from fogconv.planning.plan_options import PlanOptions
from fogconv.planning.planner import plan
from tests.chains import chain


@pytest.mark.parametrize(("text", "tiling"), [("2x3", Tiling(2, 3)), ("1x1", Tiling(1, 1)), ("33×1", Tiling(33, 1))])
def test_a_tiling_is_two_numbers(text: str, tiling: Tiling) -> None:
    assert Tiling.parse(text) == tiling
    assert Tiling.parse(str(tiling)) == tiling


@pytest.mark.parametrize("text", ["", "2", "x2", "2x", "0x2", "2x0", "6x6", "2x-1", "2x3x4", " 2x3", "2.0x3"])
def test_anything_else_is_a_sentence(text: str) -> None:
    with pytest.raises(InputError, match="tiles"):
        Tiling.parse(text)
    with pytest.raises(InputError, match="tiles"):
        PlanOptions("tiles", tiles=text)


@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 40))
def test_every_rank_is_one_tile_as_long_as_there_are_tiles(rows: int, columns: int, ranks: int) -> None:
    bands = Tiling(rows, columns).bands(range(ranks))
    used = [rank for band in bands for rank in band]
    assert used == list(range(min(ranks, rows * columns)))
    assert len(bands) == min(rows, ranks)
    sizes = [len(band) for band in bands]
    assert min(sizes) >= 1 and max(sizes) - min(sizes) <= 1 and sizes == sorted(sizes)


@given(st.integers(2, MOST_TILES))
def test_the_squarest_tilings_have_a_tile_for_every_rank(ranks: int) -> None:
    found = squarest(ranks)
    assert 1 <= len(found) <= 2
    for tiling in found:
        assert tiling.tiles >= ranks
        assert abs(tiling.rows - tiling.columns) <= 2
        assert sum(map(len, tiling.bands(range(ranks)))) == ranks


def tiles_of(tiling: str, ranks: int) -> list[list[tuple[int, int, int, int]]]:
    """For each layer its tiles: first row, first column, rows, columns."""
    topology = Topology.uniform(ranks, 1e9, 1e12, 1e-9, copy_s_per_byte=1e-14, step_s=1e-9)
    found = plan(chain(64, 64, 64, size=32), topology, PlanOptions("tiles", tiles=tiling))
    return [
        sorted(
            (
                work.output.rows.start,
                work.output.columns.start,
                len(work.output.rows),
                len(work.output.columns),
            )
            for work in placement.work
        )
        for placement in found.placements
    ]


def test_a_forced_grid_is_kept() -> None:
    for layer in tiles_of("2x2", 4):
        assert layer == [(0, 0, 16, 16), (0, 16, 16, 16), (16, 0, 16, 16), (16, 16, 16, 16)]
    for layer in tiles_of("1x2", 5):
        assert [tile[2:] for tile in layer] == [(32, 16), (32, 16)]


def test_after_a_loss_the_grid_has_a_tile_less() -> None:
    for layer in tiles_of("2x2", 3):
        assert len(layer) == 3 and sum(rows * columns for _, _, rows, columns in layer) == 32 * 32
        assert layer[0][3] == 32  # a band of one above a band of two


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"scheme": "rows", "tiles": "2x2"}, "--scheme tiles, not --scheme rows"),
        ({"scheme": "auto", "tiles": "2x2"}, "--scheme tiles, not --scheme auto"),
    ],
)
def test_tiles_are_for_one_scheme(options: dict[str, str], says: str) -> None:
    with pytest.raises(InputError, match=says):
        PlanOptions(**options)


def test_more_tiles_than_ranks_are_refused() -> None:
    with pytest.raises(InputError, match="asks for 6 ranks, and there are 5"):
        PlanOptions("tiles", tiles="2x3").check_ranks(5)
    PlanOptions("tiles", tiles="2x3").check_ranks(6)
