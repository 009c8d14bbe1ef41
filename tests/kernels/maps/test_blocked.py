"""The blocked layout and the ways into and out of it."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fogconv.errors import KernelError
from fogconv.kernels.maps.blocked import Blocked, Margin, aligned_zeros, blocks
from fogconv.kernels.maps.pack import pack, unpack
from fogconv.kernels.maps.transpose import packer, unpacker
from tests.kernels.random_maps import Surroundings, Untouched, place, random, surroundings

shapes = st.tuples(st.integers(1, 2), st.integers(1, 40), st.integers(1, 9), st.integers(1, 9))
margins = st.builds(Margin, *[st.integers(0, 2)] * 4)
seeds = st.integers(0, 2**31)


@settings(deadline=None, max_examples=60)
@given(shapes, margins, seeds)
def test_pack_puts_every_channel_into_its_lane(shape: tuple[int, int, int, int], margin: Margin, seed: int) -> None:
    x = random(np.random.default_rng(seed), *shape)
    packed = pack(x, margin)
    assert packed.data.ctypes.data % 64 == 0
    for channel in range(shape[1]):
        np.testing.assert_array_equal(packed.interior[:, channel // 16, :, :, channel % 16], x[:, channel])
    lanes = packed.interior[:, -1, :, :, (shape[1] - 1) % 16 + 1 :]
    assert not lanes.any()
    assert np.count_nonzero(packed.data) == np.count_nonzero(x)  # the margin is zero
    np.testing.assert_array_equal(unpack(packed), x)


@settings(deadline=None, max_examples=60)
@given(shapes, surroundings, seeds)
def test_parts_of_buffers_are_packed_and_unpacked_in_place(
    shape: tuple[int, int, int, int], around: Surroundings, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    batch, channels, height, width = shape
    x = random(rng, batch, blocks(channels) * 16, height, width)
    view = place(random(rng, *x.shape), around, rng)
    untouched = Untouched(view)
    assert pack(x, out=view) is view
    wide = np.full((batch + 1, x.shape[1] + 1, height, width), 7, np.float32)
    out = wide[:batch, : x.shape[1]]
    assert unpack(view, out) is out
    np.testing.assert_array_equal(out, x)
    assert (wide[batch] == 7).all()
    assert (wide[:, -1] == 7).all()
    assert untouched.outside_is_unchanged()


@settings(deadline=None, max_examples=30)
@given(st.sampled_from([(1, 1), (1, 3), (5, 4)]), st.integers(1, 40), margins, seeds)
def test_a_call_that_is_bound_once_packs_and_unpacks_other_arrays(
    size: tuple[int, int], channels: int, margin: Margin, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    held = Blocked.empty(2, channels, *size, margin)
    packed, unpacked = packer(held), unpacker(held)
    results = []
    arrays = [random(rng, 2, channels, *size) for _ in range(3)]
    for x in (*arrays, random(rng, *size, channels, 2).transpose(3, 2, 0, 1)):
        packed(x)
        np.testing.assert_array_equal(held.data, pack(x, margin).data)
        results.append(unpacked())
        np.testing.assert_array_equal(results[-1], x)
    assert not any(np.shares_memory(results[0], other) for other in results[1:])
    for wrong in (arrays[0][:1], arrays[0].astype(np.float64)):
        with pytest.raises(KernelError, match="the NCHW array must be float32"):
            packed(wrong)


def test_a_transposed_array_is_packed_by_its_values() -> None:
    x = random(np.random.default_rng(0), 2, 7, 5, 20).transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(unpack(pack(x)), x)


def test_maps_without_elements_pass() -> None:
    for shape in ((0, 3, 4, 4), (1, 0, 4, 4), (1, 3, 0, 4), (1, 3, 4, 0)):
        assert unpack(pack(np.zeros(shape, np.float32))).shape == shape


def test_bad_arrays_are_refused_with_their_shapes() -> None:
    x = np.zeros((1, 3, 4, 4), np.float32)
    with pytest.raises(KernelError, match="float64"):
        pack(x.astype(np.float64))  # type: ignore[arg-type]
    with pytest.raises(KernelError, match=r"\(3, 4, 4\)"):
        pack(x[0])
    with pytest.raises(KernelError, match=r"\(1, 3, 4, 5\).*\(1, 3, 4, 4\)"):
        pack(x, out=Blocked.empty(1, 3, 4, 5))
    with pytest.raises(KernelError, match="strides"):
        unpack(pack(x), np.zeros((1, 3, 4, 8), np.float32)[:, :, :, ::2])
    with pytest.raises(KernelError, match="read-only"):
        x.flags.writeable = False
        unpack(pack(x), x)
    with pytest.raises(KernelError, match="negative"):
        Blocked.empty(1, 3, -1, 4)
    with pytest.raises(KernelError, match="multiple of 16"):
        pack(np.zeros((1, 40, 2, 2), np.float32)).view(slice(8, 40), slice(0, 2), slice(0, 2))


def test_a_view_has_the_rest_of_the_map_as_its_margin() -> None:
    x = random(np.random.default_rng(0), 1, 40, 6, 7)
    view = pack(x, Margin(1, 2, 3, 4)).view(slice(16, 40), slice(2, 5), slice(1, 6))
    assert view.margin == Margin(3, 3, 4, 5)
    np.testing.assert_array_equal(unpack(view), x[:, 16:40, 2:5, 1:6])


def test_fresh_memory_is_zero_and_aligned() -> None:
    for elements in (1, 17, 1000):
        assert aligned_zeros((elements,)).ctypes.data % 64 == 0
        assert not aligned_zeros((elements,)).any()


def test_naming_the_layout_does_not_load_numba() -> None:
    code = "import sys, fogconv.kernels.maps.blocked; sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
