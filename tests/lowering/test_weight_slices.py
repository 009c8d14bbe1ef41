"""Cuts are made when asked for, and are what their names say."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fogconv.ir.arrays import weight_key
from fogconv.lowering.weight_slices import Cuts

WHOLE = {"w": np.random.default_rng(3).standard_normal((6, 4, 3, 3)), "b": np.arange(6, dtype=np.float32)}

spans = st.tuples(st.integers(0, 6), st.integers(0, 6)).map(lambda ends: slice(min(ends), max(ends)))


@given(st.lists(st.tuples(spans, spans), max_size=6))
def test_a_cut_is_that_part_in_float32_under_its_content_hash(parts: list[tuple[slice, slice]]) -> None:
    cuts = Cuts(WHOLE)
    names = [cuts.cut("w", part) for part in parts]
    for name, part in zip(names, parts, strict=True):
        array = cuts[name]
        assert array.dtype == np.float32 and array.flags.c_contiguous
        np.testing.assert_array_equal(array, WHOLE["w"][part].astype(np.float32))
        assert weight_key(array) == name
        assert cuts.shape(name) == array.shape
    assert set(cuts) == set(names)
    assert len(cuts) == len(set(names))


def test_equal_contents_have_one_name_and_what_nobody_named_is_not_there() -> None:
    cuts = Cuts(WHOLE)
    assert cuts.cut("b", (slice(1, 3),)) == cuts.derive(lambda: np.array([1, 2], np.float32))
    assert len(cuts) == 1
    name = weight_key(np.zeros(3, np.float32))
    assert name not in cuts
    with pytest.raises(KeyError):
        cuts[name]


def test_a_whole_weight_is_not_copied() -> None:
    cuts = Cuts(WHOLE)
    assert np.shares_memory(cuts[cuts.cut("b", (slice(0, 6),))], WHOLE["b"])
