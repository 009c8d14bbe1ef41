"""Pooling against the float64 reference (itself held to torch), on parts of layers and of buffers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fogconv.errors import GeometryError, KernelError
from fogconv.ir.geometry import PoolSpec
from fogconv.kernels import reference
from fogconv.kernels.maps import pooling
from fogconv.kernels.maps.blocked import Blocked
from tests.kernels.random_maps import Surroundings, Untouched, pack, place, random, surroundings, unpack

seeds = st.integers(0, 2**31)


@st.composite
def pool_specs(draw: st.DrawFn) -> PoolSpec:
    kind = draw(st.sampled_from(["max", "avg"]))
    kernel = draw(st.one_of(st.sampled_from([(2, 2), (3, 3)]), st.tuples(st.integers(1, 6), st.integers(1, 4))))
    try:
        return PoolSpec(
            kind,
            draw(st.integers(1, 36)),
            draw(st.integers(1, 12)),
            draw(st.integers(1, 12)),
            kernel,
            (draw(st.integers(1, 3)), draw(st.integers(1, 3))),
            tuple(draw(st.integers(0, k // 2)) for k in (kernel[0], kernel[0], kernel[1], kernel[1])),
            (draw(st.integers(1, 2)), draw(st.integers(1, 3))) if kind == "max" else (1, 1),
            draw(st.booleans()),
            draw(st.booleans()),
            draw(st.sampled_from([None, 5, -2])) if kind == "avg" else None,
            draw(st.integers(1, 2)),
        )
    except GeometryError:
        assume(False)
        raise


@settings(deadline=None, max_examples=150)
@given(pool_specs(), st.data(), *[surroundings] * 2, st.booleans(), seeds)
def test_any_part_of_any_pooling_is_the_references(
    spec: PoolSpec, data: st.DataObject, around: Surroundings, out_around: Surroundings, odd: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    x = random(rng, spec.batch, spec.channels, spec.height, spec.width)
    if odd:
        x[rng.random(x.shape) < 0.1] = rng.choice([np.nan, np.inf, -np.inf])
    out_rows, out_columns, rows, columns = [], [], [], []
    for axis, (size, whole) in enumerate(((spec.height, spec.out_height), (spec.width, spec.out_width))):
        first = data.draw(st.integers(0, whole - 1))
        stop = data.draw(st.integers(first + 1, whole))
        inside = [window for window in pooling.windows(spec, axis, first, stop - first) if window.inside]
        least = min((window.start for window in inside), default=0)
        most = max((window.start + (window.inside - 1) * spec.dilation[axis] + 1 for window in inside), default=1)
        (out_rows, out_columns)[axis][:] = [first, stop]
        (rows, columns)[axis][:] = [data.draw(st.integers(0, least)), data.draw(st.integers(most, size))]
    here = (slice(None), slice(None), slice(*rows), slice(*columns))
    out_here = (slice(None), slice(None), slice(*out_rows), slice(*out_columns))
    expected = reference.pool2d(x, spec)[out_here]
    out = place(random(rng, *expected.shape), out_around, rng)
    untouched = Untouched(out)
    pooling.bind_pool(spec, place(x[here], around, rng), rows[0], columns[0], out, out_rows[0], out_columns[0])()
    np.testing.assert_allclose(unpack(out), expected, rtol=2e-6, atol=2e-6)
    assert untouched.outside_is_unchanged()


@settings(deadline=None, max_examples=40)
@given(st.tuples(st.integers(1, 2), st.integers(1, 40), st.integers(1, 9), st.integers(1, 9)), *[surroundings] * 2, seeds)
def test_global_pooling_is_a_sum_over_rows_and_columns(
    shape: tuple[int, int, int, int], around: Surroundings, out_around: Surroundings, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    x = random(rng, *shape)
    out = place(random(rng, *shape[:2], 1, 1), out_around, rng)
    untouched = Untouched(out)
    pooling.bind_global_pool(place(x, around, rng), out, 7)()
    np.testing.assert_allclose(unpack(out), x.sum(axis=(2, 3), keepdims=True, dtype=np.float64) / 7, rtol=1e-5, atol=1e-6)
    assert untouched.outside_is_unchanged()


def test_nan_wins_wherever_it_stands_in_the_window() -> None:
    spec = PoolSpec("max", 1, 3, 3, (3, 3), (3, 3))
    for position in range(9):
        x = np.arange(9, dtype=np.float32)
        x[position] = np.nan
        out = Blocked.empty(1, 1, 1, 1)
        pooling.bind_pool(spec, pack(x.reshape(1, 1, 3, 3)), 0, 0, out, 0, 0)()
        assert np.isnan(unpack(out)).all(), position


def test_missing_inputs_are_refused_with_the_rows() -> None:
    spec = PoolSpec("max", 4, 10, 10, (3, 3), (2, 2), (1, 1, 1, 1))
    out = Blocked.empty(1, 4, 2, 5)
    with pytest.raises(KernelError, match="output rows 2 to 4 need the input's rows 3 to 8; 4 to 9 are here"):
        pooling.bind_pool(spec, Blocked.empty(1, 4, 5, 10), 4, 0, out, 2, 0)
    with pytest.raises(KernelError, match="output rows 4 to 6 are not among the layer's 5"):
        pooling.bind_pool(spec, Blocked.empty(1, 4, 10, 10), 0, 0, out, 4, 0)
    with pytest.raises(KernelError, match="channels"):
        pooling.bind_pool(spec, Blocked.empty(1, 5, 10, 10), 0, 0, out, 0, 0)
    with pytest.raises(KernelError, match="dilation"):
        dilated = PoolSpec("avg", 4, 10, 10, (3, 3), (2, 2), dilation=(2, 2))
        pooling.bind_pool(dilated, Blocked.empty(1, 4, 10, 10), 0, 0, out, 0, 0)
    with pytest.raises(KernelError, match="pooled into"):
        pooling.bind_global_pool(Blocked.empty(1, 4, 10, 10), out, 100)
