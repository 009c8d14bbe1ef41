"""Every split of a conv computes the conv, and transfers deliver exactly what is needed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fogconv.errors import GeometryError
from fogconv.ir.geometry import ConvSpec, Region, Span, bounding, subtract
from fogconv.ir.layout import Layout, transfers
from fogconv.ir.shard import conv_grid, conv_shard, split, split_channels

spans = st.builds(lambda a, n: Span(a, a + n), st.integers(0, 6), st.integers(0, 6))
regions = st.builds(Region, spans, spans, spans)


def mask(*boxes: Region) -> np.ndarray:
    grid = np.zeros((14, 14, 14), np.int64)
    for box in boxes:
        grid[box.channels.slice(), box.rows.slice(), box.columns.slice()] += 1
    return grid


@given(regions, regions)
def test_a_box_minus_another_is_disjoint_and_exact(a: Region, b: Region) -> None:
    assert np.array_equal(mask(*a.minus(b)), (mask(a) > 0) & (mask(b) == 0))


@given(regions, st.lists(regions, max_size=4))
def test_subtracting_several_boxes_leaves_what_none_covers(a: Region, holes: list[Region]) -> None:
    assert np.array_equal(mask(*subtract(a, holes)), (mask(a) > 0) & (mask(*holes) == 0))


@given(st.lists(regions, min_size=1, max_size=4))
def test_the_bounding_box_holds_all(boxes: list[Region]) -> None:
    if any(boxes):
        assert all(box in bounding(boxes) for box in boxes)
    else:
        with pytest.raises(GeometryError):
            bounding(boxes)


@given(st.integers(0, 300), st.lists(st.floats(0, 10), min_size=1, max_size=9), st.sampled_from([1, 3, 16]))
def test_a_split_covers_the_whole_in_order(total: int, weights: list[float], grain: int) -> None:
    if sum(weights) <= 0:
        with pytest.raises(GeometryError):
            split(total, weights, grain)
        return
    parts = split(total, weights, grain)
    assert len(parts) == len(weights)
    assert [i for part in parts for i in range(part.start, part.stop)] == list(range(total))
    for part, weight in zip(parts, weights, strict=True):
        assert abs(len(part) - total * weight / sum(weights)) <= 2 * grain


def test_more_ranks_than_channels_leaves_some_without() -> None:
    assert [len(span) for span in split_channels(3, [1.0] * 7)] == [1, 1, 1, 0, 0, 0, 0]


def test_what_is_left_over_goes_to_the_first_or_to_those_named_first() -> None:
    assert [len(span) for span in split(7, [1.0] * 5)] == [2, 2, 1, 1, 1]
    assert [len(span) for span in split(7, [1.0] * 5, order=[4, 0, 3, 1, 2])] == [2, 1, 1, 1, 2]


@st.composite
def conv_specs(draw: st.DrawFn) -> ConvSpec:
    groups = draw(st.sampled_from([1, 1, 1, 2, 3, 4]))
    kernel = (draw(st.integers(1, 4)), draw(st.integers(1, 4)))
    dilation = (draw(st.integers(1, 2)), draw(st.integers(1, 2)))
    reach = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    return ConvSpec(
        groups * draw(st.integers(1, 5)),
        groups * draw(st.integers(1, 5)),
        reach[0] + draw(st.integers(0, 6)),
        reach[1] + draw(st.integers(0, 6)),
        kernel,
        (draw(st.integers(1, 3)), draw(st.integers(1, 3))),
        tuple(draw(st.integers(0, 2)) for _ in range(4)),  # type: ignore[arg-type]
        dilation,
        groups,
        draw(st.integers(1, 2)),
    )


def direct(x: np.ndarray, weight: np.ndarray, spec: ConvSpec) -> np.ndarray:
    """The definition, in float64."""
    top, bottom, left, right = spec.padding
    padded = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (top, bottom), (left, right)))
    out = np.zeros(spec.output_shape)
    c, f = spec.in_channels // spec.groups, spec.out_channels // spec.groups
    for g in range(spec.groups):
        for i in range(spec.kernel[0]):
            for j in range(spec.kernel[1]):
                rows = slice(
                    i * spec.dilation[0], i * spec.dilation[0] + (spec.out_height - 1) * spec.stride[0] + 1, spec.stride[0]
                )
                cols = slice(
                    j * spec.dilation[1], j * spec.dilation[1] + (spec.out_width - 1) * spec.stride[1] + 1, spec.stride[1]
                )
                part = padded[:, g * c : (g + 1) * c, rows, cols]
                out[:, g * f : (g + 1) * f] += np.einsum("nchw,fc->nfhw", part, weight[g * f : (g + 1) * f, :, i, j])
    return out


def run_shards(shards: object, x: np.ndarray, weight: np.ndarray, spec: ConvSpec) -> np.ndarray:
    out = np.zeros(spec.output_shape)
    for shard in shards:  # type: ignore[attr-defined]
        i, o = shard.input, shard.output
        part = x[:, i.channels.slice(), i.rows.slice(), i.columns.slice()]
        cut = weight[shard.filters.slice(), shard.depth.slice()]
        assert cut.shape == shard.spec.weight_shape
        out[:, o.channels.slice(), o.rows.slice(), o.columns.slice()] += direct(part, cut, shard.spec)
    return out


@given(
    conv_specs(),
    st.integers(1, 4),
    st.integers(1, 4),
    st.lists(st.floats(0.1, 5), min_size=16, max_size=16),
    st.integers(0, 9),
)
@settings(deadline=None)
def test_any_grid_of_shards_sums_up_to_the_conv(spec: ConvSpec, p: int, q: int, weights: list[float], seed: int) -> None:
    generator = np.random.default_rng(seed)
    x = generator.standard_normal(spec.input_shape)
    weight = generator.standard_normal(spec.weight_shape)
    shards = conv_grid(spec, range(p * q), p, weights[: p * q])
    assert np.allclose(run_shards(shards, x, weight, spec), direct(x, weight, spec), atol=1e-9)


@given(conv_specs(), st.lists(st.floats(0.1, 5), min_size=1, max_size=6), st.integers(0, 9))
@settings(deadline=None)
def test_any_split_into_rows_with_halo_is_the_conv(spec: ConvSpec, weights: list[float], seed: int) -> None:
    generator = np.random.default_rng(seed)
    x, weight = generator.standard_normal(spec.input_shape), generator.standard_normal(spec.weight_shape)
    whole = Region.whole(spec.out_channels, spec.out_height, spec.out_width)
    try:
        shards = [
            conv_shard(rank, spec, whole.with_rows(rows))
            for rank, rows in enumerate(split(spec.out_height, weights))
            if rows
        ]
    except GeometryError:  # some rows read only padding: the planner does not offer such a split
        return
    assert np.allclose(run_shards(shards, x, weight, spec), direct(x, weight, spec), atol=1e-9)


def cut_at_random(draw: st.DrawFn, whole: Region, ranks: int) -> Layout:
    """Disjoint boxes that cover the whole, dealt out to the ranks; some are held twice."""
    boxes: list[Region] = [whole]
    for _ in range(draw(st.integers(0, 4))):
        box = boxes.pop(draw(st.integers(0, len(boxes) - 1)))
        axis = draw(st.sampled_from(["channels", "rows", "columns"]))
        span: Span = getattr(box, axis)
        at = draw(st.integers(span.start, span.stop))
        for piece in (Span(span.start, at), Span(at, span.stop)):
            if piece:
                boxes.append(Region(**{a: piece if a == axis else getattr(box, a) for a in ("channels", "rows", "columns")}))
    held: list[list[Region]] = [[] for _ in range(ranks)]
    for box in boxes:
        for rank in draw(st.sets(st.integers(0, ranks - 1), min_size=1)):
            held[rank].append(box)
    return Layout(tuple(tuple(boxes) for boxes in held))


@given(st.data())
@settings(deadline=None)
def test_transfers_turn_any_layout_into_any_other(data: st.DataObject) -> None:
    ranks = data.draw(st.integers(1, 4))
    whole = Region.whole(5, 6, 3)
    held, needed = (data.draw(st.builds(lambda d: d, st.composite(cut_at_random)(whole, ranks))) for _ in range(2))
    tensor = np.arange(1, 91.0).reshape(5, 6, 3)
    have = [np.zeros_like(tensor) for _ in range(ranks)]
    for rank, boxes in enumerate(held.regions):
        for box in boxes:
            index = (box.channels.slice(), box.rows.slice(), box.columns.slice())
            have[rank][index] = tensor[index]
    before = [array.copy() for array in have]
    for move in transfers(held, needed):
        index = (move.region.channels.slice(), move.region.rows.slice(), move.region.columns.slice())
        assert move.source != move.target
        assert (before[move.source][index] > 0).all(), "sent what it does not hold"
        assert (have[move.target][index] == 0).all(), "sent twice, or what the target holds already"
        have[move.target][index] = before[move.source][index]
    for rank, boxes in enumerate(needed.regions):
        for box in boxes:
            index = (box.channels.slice(), box.rows.slice(), box.columns.slice())
            assert np.array_equal(have[rank][index], tensor[index])


def test_of_a_partial_layout_everyone_sends_its_summand() -> None:
    whole = Region.whole(4, 1, 1)
    held = Layout(((whole,), (whole,), (whole,)), partial=True)
    needed = Layout(((whole.with_channels(Span(0, 2)),), (whole.with_channels(Span(2, 4)),), ()))
    moves = {(m.source, m.target, m.region.channels) for m in transfers(held, needed)}
    assert moves == {(1, 0, Span(0, 2)), (2, 0, Span(0, 2)), (0, 1, Span(2, 4)), (2, 1, Span(2, 4))}


def test_what_nobody_holds_is_an_error() -> None:
    whole = Region.whole(4, 1, 1)
    with pytest.raises(GeometryError, match="no rank holds"):
        transfers(Layout(((), ())), Layout(((whole,), ())))
