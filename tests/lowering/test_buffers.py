"""Where tensors live: concatenations without copies where the blocks allow it, margins as wide as any reader needs."""

from __future__ import annotations

from fogconv.ir.geometry import ConvSpec, PoolSpec, Region, Span
from fogconv.ir.graph import LayerGraph
from fogconv.ir.layers import Concat, Conv, Pool, Tensor
from fogconv.lowering.buffers import Held, Residency, margins


def cat_graph(first: int, second: int) -> LayerGraph:
    tensors = (
        Tensor("a", 1, first, 8, 8),
        Tensor("b", 1, second, 8, 8),
        Tensor("cat", 1, first + second, 8, 8),
        Tensor("out", 1, 4, 8, 8),
    )
    spec = ConvSpec(first + second, 4, 8, 8, (5, 5), padding=(2, 2, 2, 2))
    layers = (Concat("cat", (0, 1), 2), Conv("conv", 2, 3, spec, "w"))
    return LayerGraph.single("cat", tensors, layers, 0, 3, (1, 4, 8, 8), {})


def residency(graph: LayerGraph) -> Residency:
    return Residency(graph, 1, {(number, 0): [tensor.region] for number, tensor in enumerate(graph.tensors)})


def test_sources_of_a_concatenation_live_inside_it() -> None:
    places = residency(cat_graph(32, 16))
    a, b, cat = (places.home(0, number) for number in (0, 1, 2))
    assert a.buffer == b.buffer == cat.buffer
    assert (a.shift, b.shift, cat.shift) == (0, 32, 0)


def test_a_source_that_begins_inside_a_block_lives_apart() -> None:
    places = residency(cat_graph(20, 16))
    a, b, cat = (places.home(0, number) for number in (0, 1, 2))
    assert a.buffer == cat.buffer != b.buffer
    # a ends inside a block whose other lanes are b's: a kernel must not write it whole.
    assert not places.writable(0, a.buffer, Region.whole(20, 8, 8))


def test_whoever_shares_a_buffer_shares_its_margin() -> None:
    found = margins(cat_graph(32, 16))
    assert found[0] == found[1] == found[2] == (2, 2, 2, 2)
    assert found[3] == (0, 0, 0, 0)


def test_a_depthwise_conv_wants_no_more_than_its_padding() -> None:
    """No transform computes it, whose tiles would reach further; each inference would write the wider margin again."""

    def margin(groups: int) -> tuple[int, int, int, int]:
        tensors = (Tensor("a", 1, 32, 8, 8), Tensor("b", 1, 32, 8, 8))
        conv = Conv("conv", 0, 1, ConvSpec(32, 32, 8, 8, (3, 3), padding=(1, 1, 1, 1), groups=groups), "w")
        return margins(LayerGraph.single("conv", tensors, (conv,), 0, 1, (1, 32, 8, 8), {}))[0]

    assert margin(32) == (1, 1, 1, 1)
    assert margin(1) == (1, 4, 1, 4)


def test_pools_need_no_margin() -> None:
    tensors = (Tensor("a", 1, 4, 8, 8), Tensor("b", 1, 4, 4, 4))
    pool = Pool("pool", 0, 1, PoolSpec("max", 4, 8, 8, (3, 3), (2, 2), (1, 0, 1, 0)))
    assert margins(LayerGraph.single("pool", tensors, (pool,), 0, 1, (1, 4, 4, 4), {})) == {0: (0, 0, 0, 0), 1: (0, 0, 0, 0)}


def test_neighbours_grow_into_one_box() -> None:
    places = residency(cat_graph(32, 16))
    whole = Region.whole(32, 8, 8)
    buffer = places.new_buffer(0, 0, whole)
    for rows in (Span(0, 3), Span(5, 8), Span(3, 5)):
        places.hold(0, 0, Held(whole.with_rows(rows), buffer, 0))
    assert [held.region for held in places.held(0, 0)] == [whole]
    assert places.readable(0, 0, whole.with_rows(Span(2, 7))) is not None


def test_what_lies_in_pieces_is_not_readable_in_one() -> None:
    places = residency(cat_graph(32, 16))
    whole = Region.whole(32, 8, 8)
    for rows in (Span(0, 3), Span(3, 8)):
        part = whole.with_rows(rows)
        places.hold(0, 0, Held(part, places.new_buffer(0, 0, part), 0))
    assert places.readable(0, 0, whole) is None
