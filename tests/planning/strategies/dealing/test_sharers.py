"""Few ranks share the weights of the layers with large maps, and no rank holds more than its share and what is spared."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fogconv.planning.strategies.dealing.sharers import SPARE, least_sharers
from tests.chains import chain
from tests.random_graphs import graphs


@given(graphs(), st.integers(2, 9))
def test_what_a_rank_may_hold_is_bounded(graph: object, ranks: int) -> None:
    found = least_sharers(graph, ranks)  # type: ignore[arg-type]
    convs = {conv.name: conv.spec for conv in graph.convs if not conv.linear}  # type: ignore[attr-defined]
    assert found.keys() == convs.keys()
    assert all(1 <= sharers <= ranks for sharers in found.values())
    whole = sum(spec.weight_elements for spec in convs.values())
    most = sum(spec.weight_elements / found[name] for name, spec in convs.items())
    assert most <= (1 + SPARE) / ranks * whole * (1 + 1e-9)


def test_the_layers_with_the_largest_maps_per_weight_come_first() -> None:
    found = least_sharers(chain(16, 16, 64, 64, 256, 256, 256), 5)
    in_order = list(found.values())
    assert in_order == sorted(in_order)
    assert in_order[0] == 1 < in_order[-1]
