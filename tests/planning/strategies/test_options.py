"""Options are those of every family that the scheme may take; a new family is one entry."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fogconv.hardware.topology import Topology
from fogconv.ir.layers import Layer
from fogconv.ir.plan import Work
from fogconv.planning.cost import Prices
from fogconv.planning.layout_table import LayoutBook
from fogconv.planning.strategies import options
from fogconv.planning.strategies.family import Family, Scheme, Way
from fogconv.planning.strategies.options import Options
from fogconv.planning.strategies.shares import Shares
from tests.chains import chain


def modes(scheme: Scheme, *, size: int = 32, ranks: int = 3) -> set[str]:
    graph, prices = chain(64, 64, size=size, kernel=1), Prices(Topology.uniform(ranks, 1e9, 1e8))
    return {option.mode for option in Options(graph, prices, LayoutBook(prices), scheme).of(graph.layers[0])}


@pytest.mark.parametrize(
    ("scheme", "expected"),
    [
        ("local", {"local"}),
        ("rows", {"local", "rows"}),
        ("columns", {"local", "columns"}),
        ("depth", {"local", "output", "input"}),  # the only conv is too large a share of the weights to be copied
        ("offload", {"local", "offload"}),
        ("auto", {"local", "copies", "output", "input", "rows"}),
    ],
)
def test_a_scheme_takes_its_families(scheme: Scheme, expected: set[str]) -> None:
    assert modes(scheme) == expected


def test_the_head_is_split_by_channels_in_the_rows_scheme_too() -> None:
    assert modes("rows", size=1) == {"local", "copies", "output", "input"}


def test_a_mixed_search_takes_whole_layers_on_the_fastest_rank_if_it_is_faster_than_the_master() -> None:
    graph, topology = chain(64, 64), Topology.uniform(4, 1e9, 1e8)
    topology = topology.replace_device(2, topology.devices[2].scaled(3)).replace_device(3, topology.devices[3].scaled(5))
    prices = Prices(topology)
    for scheme, ranks in (("auto", [3]), ("offload", [1, 2, 3])):
        found = Options(graph, prices, LayoutBook(prices), scheme).of(graph.layers[0])  # type: ignore[arg-type]
        assert [option.work[0].rank for option in found if option.mode == "offload"] == ranks


def test_offload_cuts_no_head() -> None:
    assert modes("offload", size=1) == {"local", "offload"}


def test_one_rank_has_no_choice() -> None:
    assert modes("auto", ranks=1) == {"local"}


def test_a_new_family_is_one_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    def elsewhere(layer: Layer, shares: Shares) -> Iterator[Way]:
        whole = shares.graph.tensors[1].region
        yield Way("elsewhere", [Work(2, whole)])

    monkeypatch.setattr(options, "FAMILIES", (*options.FAMILIES, Family(elsewhere, frozenset(("auto",)))))
    assert "elsewhere" in modes("auto")
    assert "elsewhere" not in modes("rows")
