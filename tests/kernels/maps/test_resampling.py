"""Resampling and interleaving against the float64 reference, on parts of layers and of buffers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fogconv.errors import GeometryError, KernelError
from fogconv.ir.geometry import NARROW, Span, Taps
from fogconv.kernels import reference
from fogconv.kernels.maps.blocked import Blocked, Margin
from fogconv.kernels.maps.interleaving import bind_interleave
from fogconv.kernels.maps.resampling import bind_resample
from tests.kernels.random_maps import Surroundings, Untouched, pack, place, random, surroundings, unpack

seeds = st.integers(0, 2**31)


@st.composite
def taps(draw: st.DrawFn) -> Taps:
    size, outputs, most = draw(st.integers(1, 7)), draw(st.integers(1, 9)), draw(st.integers(0, 4))
    numbers = st.floats(-2, 2, width=32)
    if not most:
        return Taps(size, tuple(draw(st.lists(st.integers(-1, size - 1), min_size=outputs, max_size=outputs))))
    weights = [tuple(draw(st.lists(numbers, min_size=1, max_size=min(most, size)))) for _ in range(outputs)]
    return Taps(size, tuple(draw(st.integers(-1, size - len(each))) for each in weights), tuple(weights))


@settings(deadline=None, max_examples=120)
@given(taps(), taps(), st.integers(1, 2), st.integers(1, 36), *[surroundings] * 2, st.sampled_from([0.0, -1.5]), seeds)
def test_a_resampling_is_the_references(
    rows: Taps,
    columns: Taps,
    batch: int,
    channels: int,
    around: Surroundings,
    out_around: Surroundings,
    fill: float,
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    x = random(rng, batch, channels, rows.size, columns.size)
    expected = reference.resample(x, rows, columns, fill)
    out = place(random(rng, *expected.shape), out_around, rng)
    untouched = Untouched(out)
    bind_resample(place(x, around, rng), out, rows, columns, fill)()
    np.testing.assert_allclose(unpack(out), expected, rtol=1e-5, atol=1e-4)
    assert untouched.outside_is_unchanged()


@settings(deadline=None)
@given(taps(), st.data())
def test_a_part_of_taps_reads_what_it_reaches_and_sums_the_same(whole: Taps, data: st.DataObject) -> None:
    first = data.draw(st.integers(0, len(whole.starts) - 1))
    out = Span(first, data.draw(st.integers(first + 1, len(whole.starts))))
    x = np.random.default_rng(0).standard_normal((1, 1, whole.size, 1))
    one = Taps(1, (0,))
    expected = reference.resample(x, whole, one)[:, :, out.slice()]
    if all(start < 0 for start in whole.starts[out.slice()]) and len(out) < len(whole.starts):
        with pytest.raises(GeometryError, match="only padding"):
            whole.reach(out)
        return
    inside = whole.reach(out)
    assert inside in Span(0, whole.size)
    np.testing.assert_allclose(reference.resample(x[:, :, inside.slice()], whole.part(out), one), expected, atol=1e-12)


@settings(deadline=None, max_examples=80)
@given(
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.tuples(st.integers(1, 2), st.integers(1, 36), st.integers(1, 8), st.integers(1, 8)),
    st.data(),
    *[surroundings] * 2,
    seeds,
)
def test_an_interleaving_takes_the_phases_by_turns(
    factors: tuple[int, int],
    shape: tuple[int, int, int, int],
    data: st.DataObject,
    around: Surroundings,
    out_around: Surroundings,
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    first = tuple(data.draw(st.integers(0, factor - 1)) for factor in factors)
    coarse = tuple((size + at - 1) // factor + 1 for size, at, factor in zip(shape[2:], first, factors, strict=True))
    sources = [random(rng, *shape[:2], *coarse) for _ in range(factors[0] * factors[1])]
    expected = reference.interleave(sources, factors, first, shape[2:])
    out = place(random(rng, *shape), out_around, rng)
    untouched = Untouched(out)
    bind_interleave([place(each, around, rng) for each in sources], out, factors, first)()
    assert np.array_equal(unpack(out), expected.astype(np.float32))
    assert untouched.outside_is_unchanged()


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 4), surroundings, seeds)
def test_an_interleaving_reads_channels_from_any_lane_on(channels: int, around: Surroundings, seed: int) -> None:
    rng = np.random.default_rng(seed)
    lanes = [int(rng.integers(0, 17 - channels)) for _ in range(4)]
    sources = [random(rng, 2, lane + channels, 3, 4) for lane in lanes]
    expected = reference.interleave([x[:, -channels:] for x in sources], (2, 2), (0, 1), (6, 7))
    out = place(random(rng, *expected.shape), around, rng)
    untouched = Untouched(out)
    bind_interleave([pack(x) for x in sources], out, (2, 2), (0, 1), lanes)()
    assert np.array_equal(unpack(out), expected.astype(np.float32))
    assert untouched.outside_is_unchanged()
    with pytest.raises(KernelError, match="in two blocks"):
        bind_interleave([pack(x) for x in sources], Blocked.empty(2, 16, 6, 7), (2, 2), (0, 1), (1, 0, 0, 0))


@settings(deadline=None, max_examples=40)
@given(
    st.integers(1, 4),
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.tuples(st.integers(1, 8), st.integers(1, 8)),
    seeds,
)
def test_an_interleaving_into_a_narrow_map_writes_its_pixels_and_no_others(
    channels: int, factors: tuple[int, int], size: tuple[int, int], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    first = (int(rng.integers(factors[0])), int(rng.integers(factors[1])))
    coarse = tuple((length + at - 1) // factor + 1 for length, at, factor in zip(size, first, factors, strict=True))
    lanes = [int(rng.integers(0, 17 - channels)) for _ in range(factors[0] * factors[1])]
    sources = [random(rng, 2, lane + channels, *coarse) for lane in lanes]
    expected = reference.interleave([x[:, -channels:] for x in sources], factors, first, size)
    out = Blocked.empty(2, channels, *size, Margin(1, 2, 1, 1), NARROW)
    bind_interleave([pack(x) for x in sources], out, factors, first, lanes)()
    assert np.array_equal(unpack(out), expected.astype(np.float32))
    out.interior[..., :channels] = 0
    assert not out.data.any(), "the margin and the unused lanes stay as they were"


def test_maps_of_other_sizes_and_taps_beyond_the_input_are_refused() -> None:
    x, out = Blocked.empty(1, 4, 5, 5), Blocked.empty(1, 4, 3, 3)
    with pytest.raises(KernelError, match="resampling of"):
        bind_resample(x, out, Taps(5, (0, 1, 2)), Taps(5, (0, 1)))
    with pytest.raises(KernelError, match="3 maps can't be interleaved"):
        bind_interleave([x] * 3, out, (2, 2), (0, 0))
    with pytest.raises(KernelError, match="can't be interleaved; it must be"):
        bind_interleave([x] * 4, out, (2, 2), (0, 0))
    for size, starts, weights in (
        (5, (5,), ()),
        (5, (-2,), ()),
        (5, (4,), ((1.0, 1.0),)),
        (5, (), ()),
        (5, (0, 1), ((1.0,),)),
    ):
        with pytest.raises(GeometryError, match="resampling"):
            Taps(size, starts, weights)
