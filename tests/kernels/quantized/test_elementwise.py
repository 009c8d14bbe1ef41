"""Operators on bytes equal the reference to the last bit, and write nothing beyond their output."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fogconv.errors import KernelError
from fogconv.kernels.maps.blocked import Blocked, Margin
from fogconv.kernels.maps.bound import Bound
from fogconv.kernels.quantized import elementwise, reference
from fogconv.kernels.quantized.numbers import Scale, Target
from tests.kernels.quantized.byte_maps import pack_bytes, random_bytes, unpack_lanes

pytestmark = pytest.mark.arm

SHAPES = st.tuples(st.integers(1, 2), st.sampled_from((1, 5, 16, 21)), st.integers(1, 3), st.integers(1, 5))
EXAMPLES = settings(max_examples=20, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
HALVES = (0.5, 0.25, 0.37, 3.0, 1e-9)
"""Multipliers, some of which make many sums halves."""


def written(shape: tuple[int, int, int, int], call: Callable[[Blocked], Bound], kind: type = np.uint8) -> np.ndarray:
    """What a bound call writes into a map, which must be all inside its channels, rows and columns."""
    out = Blocked.empty(*shape, Margin(1, 2, 1, 0), kind=kind, fill=99)
    call(out)()
    found = unpack_lanes(out)[:, : shape[1]].copy()
    for channel in range(shape[1]):
        out.interior[:, channel // 16, :, :, channel % 16] = 99
    assert (out.data == 99).all()
    return found


def two(shape: tuple[int, ...], seed: int) -> tuple[np.ndarray, np.ndarray, np.random.Generator, Target]:
    rng = np.random.default_rng(seed)
    zero = int(rng.integers(0, 256))
    target = Target(zero, int(rng.integers(0, zero + 1)), int(rng.integers(zero, 256)))
    return random_bytes(rng, *shape), random_bytes(rng, *shape), rng, target


@EXAMPLES
@given(SHAPES, st.integers(0, 999), st.sampled_from(HALVES), st.sampled_from(HALVES))
def test_sums_and_products(shape: tuple[int, int, int, int], seed: int, m_a: float, m_b: float) -> None:
    a, b, rng, target = two(shape, seed)
    zeros, factors = (int(rng.integers(256)), int(rng.integers(256))), (np.float32(m_a), np.float32(m_b))
    x, y = pack_bytes(a, 3, Margin(0, 1, 2, 0)), pack_bytes(b, 7)
    found = written(shape, lambda out: elementwise.bind_add(x, y, out, zeros, factors, target))
    assert np.array_equal(found, reference.add(a, b, zeros, factors, target))
    factor = np.float32(m_a / 100)
    found = written(shape, lambda out: elementwise.bind_multiply(x, y, out, zeros, factor, target))
    assert np.array_equal(found, reference.multiply(a, b, zeros, factor, target))
    gate = b[:, :, :1, :1]
    found = written(shape, lambda out: elementwise.bind_multiply(x, pack_bytes(gate, 7), out, zeros, factor, target))
    assert np.array_equal(found, reference.multiply(a, gate, zeros, factor, target))


@EXAMPLES
@given(SHAPES, st.integers(0, 999), st.sampled_from(HALVES))
def test_other_scales_and_tables(shape: tuple[int, int, int, int], seed: int, factor: float) -> None:
    a, _, rng, target = two(shape, seed)
    x, zero = pack_bytes(a, 3, Margin(0, 1, 2, 0)), int(rng.integers(256))
    entries = reference.rescaling(zero, np.float32(factor), target)
    found = written(shape, lambda out: elementwise.bind_rescale(x, out, zero, np.float32(factor), target))
    assert np.array_equal(found, reference.table(a, entries))
    found = written(shape, lambda out: elementwise.bind_table(x, out, entries))
    assert np.array_equal(found, reference.table(a, entries))


def test_every_byte_has_its_entry() -> None:
    a = np.random.default_rng(0).permutation(np.arange(2 * 16 * 5 * 13) % 256).astype(np.uint8).reshape(2, 16, 5, 13)
    for entries in (np.arange(256, dtype=np.uint8)[::-1], np.random.default_rng(1).integers(0, 256, 256, np.uint8)):
        found = written(a.shape, lambda out, entries=entries: elementwise.bind_table(pack_bytes(a, 3), out, entries))
        assert np.array_equal(found, entries[a])


@EXAMPLES
@given(SHAPES, st.integers(0, 999), st.integers(0, 255), st.booleans())
def test_to_and_from_floats(shape: tuple[int, int, int, int], seed: int, zero: int, narrow: bool) -> None:
    rng = np.random.default_rng(seed)
    scale = Scale(float(rng.choice([0.5, 0.1, 1e-3])), zero)
    real = rng.choice([0.25, -0.75, 3.1, np.nan, np.inf, -np.inf, 1e-40, -1e30], shape).astype(np.float32)
    lanes = 4 if narrow and shape[1] <= 4 else 16
    x = Blocked.empty(*shape, Margin(1, 0, 0, 1), lanes)
    for channel in range(shape[1]):
        x.interior[:, channel // 16, :, :, channel % 16] = real[:, channel]
    out = Blocked.empty(*shape, Margin(0, 0, 1, 1), lanes, np.uint8, zero)
    elementwise.bind_quantise(x, out, scale)()
    found = unpack_lanes(out)
    assert np.array_equal(found[:, : shape[1]], reference.quantise(real, scale))
    assert (found[:, shape[1] :] == zero).all()
    a = random_bytes(rng, *shape)
    back = written(shape, lambda out: elementwise.bind_dequantise(pack_bytes(a, zero), out, scale), np.float32)
    assert np.array_equal(back, reference.dequantise(a, scale))


@EXAMPLES
@given(SHAPES, st.integers(0, 999), st.integers(1, 3), st.sampled_from((np.uint8, np.float32, np.int32)))
def test_partial_sums_are_joined(shape: tuple[int, int, int, int], seed: int, parts: int, kind: type) -> None:
    _, _, rng, target = two(shape, seed)
    sums = [rng.integers(-(1 << 20), 1 << 20, shape).astype(np.int32) for _ in range(parts)]
    bias, factors = (
        rng.integers(-1000, 1000, shape[1]).astype(np.int32),
        rng.uniform(1e-6, 1e-3, shape[1]).astype(np.float32),
    )
    maps = []
    for part in sums:
        maps.append(Blocked.empty(*shape, kind=np.int32))
        for channel in range(shape[1]):
            maps[-1].interior[:, channel // 16, :, :, channel % 16] = part[:, channel]
    total = np.sum(sums, axis=0, dtype=np.int32)
    exact = {
        np.uint8: reference.requantise(total, bias, factors, target),
        np.float32: reference.dequantise_sums(total, bias, factors),
        np.int32: total + bias[:, None, None],
    }[kind]
    given_factors = None if kind is np.int32 else factors
    given_target = target if kind is np.uint8 else None
    found = written(shape, lambda out: elementwise.bind_requantise(maps, out, bias, given_factors, given_target), kind)
    assert np.array_equal(found, exact)


def test_unlike_maps_are_refused() -> None:
    x, y = (Blocked.empty(1, 16, 3, size, kind=np.uint8) for size in (3, 4))
    one = np.float32(1)
    with pytest.raises(KernelError, match="second term"):
        elementwise.bind_add(x, y, x, (0, 0), (one, one), Target(0))
    with pytest.raises(KernelError, match="second factor"):
        elementwise.bind_multiply(x, y, x, (0, 0), one, Target(0))
    with pytest.raises(KernelError, match="uint8"):
        elementwise.bind_rescale(Blocked.empty(1, 16, 3, 3), x, 0, one, Target(0))
    with pytest.raises(KernelError, match="the input"):
        elementwise.bind_table(x, y, np.zeros(256, np.uint8))
    with pytest.raises(KernelError, match="256"):
        elementwise.bind_table(x, x, np.zeros(10, np.uint8))
    with pytest.raises(KernelError, match="no sums"):
        elementwise.bind_requantise([], x, None, None)
