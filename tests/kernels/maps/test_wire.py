"""Payloads: their order, their formats, what is refused."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fogconv.errors import DependencyError, KernelError, WireError
from fogconv.kernels.maps import wire
from fogconv.kernels.maps.blocked import Blocked
from tests.kernels.random_maps import Array, Surroundings, Untouched, place, random, surroundings, unpack

seeds = st.integers(0, 2**31)
shapes = st.tuples(st.integers(1, 2), st.integers(1, 40), st.integers(1, 5), st.integers(1, 5))
formats = st.sampled_from(["fp32", "fp16", "bf16"])


def in_wire_order(x: Array) -> Array:
    """The definition, with NumPy: images, groups of 16 channels, rows, columns, lanes."""
    pieces = []
    for image in x:
        for first in range(0, len(image), 16):
            pieces.append(image[first : first + 16].transpose(1, 2, 0).ravel())
    return np.concatenate(pieces)


def to_bf16(x: Array) -> np.ndarray:
    """Round to nearest even, one number at a time."""
    out = np.empty(x.size, np.uint16)
    for index, bits in enumerate(x.ravel().view(np.uint32).tolist()):
        if (bits & 0x7FFFFFFF) > 0x7F800000:
            out[index] = (bits >> 16) | 0x40
            continue
        upper, lower = bits >> 16, bits & 0xFFFF
        if lower > 0x8000 or (lower == 0x8000 and upper & 1):
            upper += 1
        out[index] = upper
    return out


def narrow(x: Array, format_: str) -> np.ndarray:
    if format_ == "bf16":
        return to_bf16(x)
    with np.errstate(over="ignore"):
        return x.astype(wire.DTYPES[format_])


def widen(x: np.ndarray, format_: str) -> Array:
    if format_ == "bf16":
        return (x.astype(np.uint32) << 16).view(np.float32)
    return x.astype(np.float32)


@settings(deadline=None, max_examples=100)
@given(shapes, st.integers(0, 40), st.integers(0, 20), formats, surroundings, seeds)
def test_extract_writes_the_region_in_wire_order(
    shape: tuple[int, int, int, int], first: int, after: int, format_: str, around: Surroundings, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    batch, channels, height, width = shape
    x = random(rng, batch, first + channels + after, height, width)
    out = np.full(wire.wire_elements(*shape) + 1, 7, wire.DTYPES[format_])
    wire.bind_extract(place(x, around, rng), first, channels, out[:-1])()
    expected = in_wire_order(x[:, first : first + channels])
    np.testing.assert_array_equal(out[:-1], narrow(expected, format_))
    assert out[-1] == 7


@settings(deadline=None, max_examples=100)
@given(shapes, st.integers(0, 40), st.integers(0, 20), formats, st.booleans(), surroundings, seeds)
def test_insert_puts_it_back_and_touches_nothing_else(
    shape: tuple[int, int, int, int],
    first: int,
    after: int,
    format_: str,
    accumulate: bool,
    around: Surroundings,
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    batch, channels, height, width = shape
    x = random(rng, *shape)
    y = random(rng, batch, first + channels + after, height, width)
    target = place(y, around, rng)
    untouched = Untouched(target)
    payload = narrow(in_wire_order(x), format_)
    inserts = wire.bind_inserts(payload.dtype, target, first, channels, accumulate)
    if accumulate:
        wire.bind_insert(payload, target, first, channels, accumulate)()
    else:
        inserts(np.full_like(payload, 7))  # the next payload takes its place
        inserts(payload)
    arrived = widen(narrow(x, format_), format_).reshape(shape)
    expected = y.copy()
    expected[:, first : first + channels] = y[:, first : first + channels] + arrived if accumulate else arrived
    np.testing.assert_array_equal(unpack(target), expected)
    assert untouched.outside_is_unchanged()


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 200), st.floats(0, 1), seeds, st.sampled_from((*wire.LOSSLESS, "fp32")))
def test_lossless_formats_keep_every_bit(elements: int, zeros: float, seed: int, format_: str) -> None:
    rng = np.random.default_rng(seed)
    bits = rng.integers(0, 2**32, elements, np.uint32)  # signalling NaNs, denormals and all
    bits[rng.random(elements) < zeros] = 0
    bits[rng.random(elements) < 0.1] = 0x80000000  # −0.0
    payload = bits.view(np.float32)
    if format_ in ("lz4", "zstd"):
        pytest.importorskip({"lz4": "lz4.block", "zstd": "zstandard"}[format_])
    sent = bytes(wire.encode(payload, format_))
    np.testing.assert_array_equal(wire.decode(sent, format_, elements).view(np.uint32), bits)


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 100), seeds, st.sampled_from(["fp16", "bf16"]))
def test_16_bit_formats_round_to_nearest_even(elements: int, seed: int, format_: str) -> None:
    rng = np.random.default_rng(seed)
    payload = (random(rng, elements) * np.float32(2.0) ** rng.integers(-30, 18, elements)).astype(np.float32)
    payload[rng.random(elements) < 0.2] = rng.choice(np.array([np.inf, -np.inf, 0, -0.0, 1e-40], np.float32))
    sent = wire.encode(payload, format_)
    assert len(sent) == 2 * elements
    np.testing.assert_array_equal(np.frombuffer(sent, np.uint16), narrow(payload, format_).view(np.uint16))
    np.testing.assert_array_equal(wire.decode(sent, format_, elements), widen(narrow(payload, format_), format_))


@pytest.mark.parametrize("format_", ["fp16", "bf16"])
def test_nan_stays_nan_in_16_bits(format_: str) -> None:
    nan = np.array([0x7F800001, 0xFF800001, 0x7FFFFFFF, 0x7FC00000], np.uint32).view(np.float32)
    assert np.isnan(wire.decode(wire.encode(nan, format_), format_, 4)).all()


@pytest.mark.parametrize("format_", ["fp32", "fp16", "bf16", "zeros", "lz4", "zstd"])
def test_malformed_payloads_are_wire_errors(format_: str) -> None:
    rng = np.random.default_rng(1)
    payload = random(rng, 100)
    payload[1::3] = 0
    sent = bytes(wire.encode(payload, format_))
    for wrong in (sent[:-1], sent + b"\0", b"", sent[: len(sent) // 2], b"\xff" * len(sent)):
        if format_ in ("fp32", "fp16", "bf16") and len(wrong) == len(sent):
            continue
        with pytest.raises(WireError):
            wire.decode(wrong, format_, 100)
    # In the zeros format a 101st zero takes no room, so that one is not malformed.
    for elements in (99, 0, -1, 10**12) if format_ == "zeros" else (99, 101, 0, -1, 10**12):
        with pytest.raises(WireError):
            wire.decode(sent, format_, elements)


def test_a_frame_that_lies_about_its_size_is_refused_before_memory_is_taken() -> None:
    zstandard = pytest.importorskip("zstandard")
    bomb = zstandard.ZstdCompressor().compress(bytes(10**7))
    with pytest.raises(WireError, match="10000000 bytes; it must have 400"):
        wire.decode(bomb, "zstd", 100)


@pytest.mark.parametrize("format_", ["fp32", "fp16", "bf16", "zeros", "lz4", "zstd"])
def test_after_warming_up_nothing_is_compiled(format_: str, monkeypatch: pytest.MonkeyPatch) -> None:
    wire.warm_up(format_)
    monkeypatch.setattr("numba.core.compiler.compile_extra", None)
    payload = np.arange(5, dtype=np.float32)
    np.testing.assert_array_equal(wire.decode(wire.encode(payload, format_), format_, 5), payload)


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lz4.block", None)
    wire._library.cache_clear()
    with pytest.raises(DependencyError, match=r"lz4.*\.\[wire\]"):
        wire.warm_up("lz4")
    wire._library.cache_clear()


def test_unknown_formats_and_bad_arrays_are_refused() -> None:
    view = Blocked.empty(1, 20, 2, 2)
    with pytest.raises(WireError, match="'gif'"):
        wire.decode(b"", "gif", 0)
    with pytest.raises(KernelError, match="'gif'"):
        wire.encode(np.zeros(3, np.float32), "gif")
    with pytest.raises(KernelError, match="float64"):
        wire.encode(np.zeros(3), "fp32")  # type: ignore[arg-type]
    with pytest.raises(KernelError, match="80 contiguous"):
        wire.bind_extract(view, 0, 20, np.zeros(79, np.float32))
    with pytest.raises(KernelError, match="1 to 21"):
        wire.bind_insert(np.zeros(80, np.float32), view, 1, 20)
    with pytest.raises(KernelError, match="int32"):
        wire.bind_insert(np.zeros(80, np.int32), view, 0, 20)
    inserts = wire.bind_inserts(np.float32, view, 0, 20)
    for payload in (np.zeros(79, np.float32), np.zeros(80, np.float16), np.zeros(160, np.float32)[::2]):
        with pytest.raises(WireError, match="was expected"):
            inserts(payload)
