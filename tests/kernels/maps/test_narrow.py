"""Narrow maps: the way in and out, the wire, first convolutions; everything else refuses them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fogconv.errors import KernelError
from fogconv.ir.geometry import BLOCK, NARROW, ConvSpec, PoolSpec
from fogconv.kernels import prepare_conv2d, reference
from fogconv.kernels.codegen.isa import AVX2, GENERIC, NEON, Isa
from fogconv.kernels.conv.select import prepare_kernel, reads_narrow
from fogconv.kernels.maps import elementwise, pooling, wire
from fogconv.kernels.maps.blocked import Blocked, Margin
from fogconv.kernels.maps.pack import pack, unpack
from fogconv.kernels.maps.scratch import Scratch
from tests.kernels.conv.test_conv import DIRECT, error, sample
from tests.kernels.maps.test_wire import formats, in_wire_order, widen
from tests.kernels.maps.test_wire import narrow as as_format
from tests.kernels.random_maps import Array, random

seeds = st.integers(0, 2**31)
shapes = st.tuples(st.integers(1, 2), st.integers(1, 4), st.integers(1, 4), st.sampled_from((1, 3, 16, 21, 35)))
margins = st.builds(Margin, *[st.integers(0, 2)] * 4)


def part_of_a_larger_map(rng: np.random.Generator, channels: int, x: Array) -> tuple[Blocked, Array]:
    """A view of x's rows and columns inside a narrow map full of other numbers, and that map's data."""
    batch, _, height, width = x.shape
    whole = Blocked.empty(batch, channels, height + 2, width + 3, Margin(1, 0, 0, 1), NARROW)
    whole.data[...] = random(rng, *whole.data.shape)
    return whole.view(slice(0, channels), slice(1, 1 + height), slice(2, 2 + width)), whole.data


@settings(deadline=None, max_examples=60)
@given(shapes, margins, seeds)
def test_pack_puts_every_channel_into_its_lane(shape: tuple[int, int, int, int], margin: Margin, seed: int) -> None:
    x = random(np.random.default_rng(seed), *shape)
    packed = pack(x, out=Blocked.empty(*shape, margin, NARROW))
    np.testing.assert_array_equal(packed.interior[:, 0, :, :, : shape[1]].transpose(0, 3, 1, 2), x)
    assert np.count_nonzero(packed.data) == np.count_nonzero(x)  # other lanes and the margin are zero
    np.testing.assert_array_equal(unpack(packed), x)


@settings(deadline=None, max_examples=60)
@given(shapes, seeds)
def test_a_part_of_a_map_is_packed_and_unpacked_in_place(shape: tuple[int, int, int, int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = random(rng, *shape)
    view, data = part_of_a_larger_map(rng, shape[1], x)
    before = data.copy()
    pack(x, out=view)
    np.testing.assert_array_equal(unpack(view), x)
    view.interior[...] = before[:, :, 2 : 2 + shape[2], 2 : 2 + shape[3]]
    np.testing.assert_array_equal(data, before)


@settings(deadline=None, max_examples=100)
@given(shapes, st.integers(0, 3), formats, st.booleans(), seeds)
def test_the_wire_takes_any_channels_and_touches_no_others(
    shape: tuple[int, int, int, int], first: int, format_: str, accumulate: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    batch, total, height, width = shape
    first = min(first, total - 1)
    count = int(rng.integers(1, total - first + 1))
    x, y = random(rng, *shape), random(rng, batch, count, height, width)
    view, data = part_of_a_larger_map(rng, total, x)
    pack(x, out=view)
    out = np.full(wire.wire_elements(batch, count, height, width) + 1, 7, wire.DTYPES[format_])
    wire.bind_extract(view, first, count, out[:-1])()
    np.testing.assert_array_equal(out[:-1], as_format(in_wire_order(x[:, first : first + count]), format_))
    assert out[-1] == 7
    expected = data.copy()
    payload = as_format(in_wire_order(y), format_)
    arrived = widen(as_format(y, format_), format_).reshape(y.shape).transpose(0, 2, 3, 1)
    place = expected[:, 0, 2 : 2 + height, 2 : 2 + width, first : first + count]
    place[...] = place + arrived if accumulate else arrived
    wire.bind_inserts(payload.dtype, view, first, count, accumulate)(payload)
    np.testing.assert_array_equal(data, expected)


@st.composite
def first_layers(draw: st.DrawFn) -> ConvSpec:
    kernel = draw(st.sampled_from(((1, 1), (3, 3), (2, 7))))
    padding = tuple(draw(st.integers(0, 2)) for _ in range(4))
    stride, dilation = draw(st.sampled_from(((1, 1), (2, 2)))), draw(st.sampled_from(((1, 1), (1, 2))))
    return ConvSpec(
        draw(st.sampled_from((1, 3, 4))),
        draw(st.sampled_from((5, 32))),
        draw(st.integers(8, 11)),
        15,
        kernel,
        stride,
        padding,  # type: ignore[arg-type]
        dilation,
        batch=draw(st.integers(1, 2)),
    )


@settings(max_examples=20, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(first_layers(), st.sampled_from((1, 2)), st.sampled_from((None, "relu", "silu")))
def test_a_first_layer_gives_the_same_on_both_kinds_of_map(spec: ConvSpec, threads: int, activation: str | None) -> None:
    x, weight, bias = sample(spec)
    prepared = prepare_conv2d(spec, weight, bias, activation=activation, threads=threads)
    assert prepared.wanted_lanes == NARROW
    results = []
    for lanes in (NARROW, BLOCK):
        # The lanes beyond the last channel may hold anything finite in the padding, too.
        source = Blocked.empty(*spec.input_shape, Margin(*spec.padding), lanes)
        source.data[..., spec.in_channels :] = 0.5
        pack(x, out=source)
        out = Blocked.empty(*spec.output_shape)
        prepared.run(source, out)
        results.append(unpack(out))
    np.testing.assert_array_equal(*results)
    exact = reference.activate(reference.conv2d(x, weight, bias, spec), activation)
    assert error(results[0], exact) <= DIRECT


@pytest.mark.parametrize("isa", [AVX2, NEON, GENERIC], ids=lambda isa: isa.name)
@pytest.mark.parametrize("channels", [3, 4])
def test_the_other_instruction_sets_read_narrow_maps_too(isa: Isa, channels: int) -> None:
    spec = ConvSpec(channels, 12, 9, 9, (3, 3), (2, 2), (1, 1, 1, 1))
    x, weight, bias = sample(spec)
    kernel = prepare_kernel("direct", spec, isa, weight, bias, None, Scratch())
    source, out = Blocked.empty(*spec.input_shape, Margin(*spec.padding), NARROW), Blocked.empty(*spec.output_shape)
    kernel.bind(pack(x, out=source), out, None, 0, 1)()
    assert error(unpack(out), reference.conv2d(x, weight, bias, spec)) <= DIRECT


def test_only_first_layers_want_narrow_maps() -> None:
    assert reads_narrow(ConvSpec(3, 32, 9, 9, (3, 3)))
    assert not reads_narrow(ConvSpec(5, 32, 9, 9, (3, 3)))
    assert not reads_narrow(ConvSpec(4, 32, 9, 9, (3, 3), groups=2))
    assert not reads_narrow(ConvSpec(3, 10, 9, 9, (9, 9)))  # a fully connected layer
    spec = ConvSpec(3, 32, 9, 9, (3, 3))
    _, weight, _ = sample(spec)
    assert prepare_conv2d(spec, weight, algorithm="winograd2").wanted_lanes == BLOCK


def test_everything_else_refuses_a_narrow_map() -> None:
    x, y = Blocked.empty(1, 3, 4, 4, lanes=NARROW), Blocked.empty(1, 3, 4, 4)
    spec = ConvSpec(3, 3, 4, 4, (3, 3), padding=(1, 1, 1, 1), groups=3)
    prepared = prepare_conv2d(spec, np.zeros(spec.weight_shape, np.float32))
    first = prepare_conv2d(ConvSpec(3, 3, 4, 4, (1, 1)), np.zeros((3, 3, 1, 1), np.float32))
    pool = PoolSpec("max", 3, 4, 4, (2, 2), (2, 2), (0, 0, 0, 0))
    for attempt in (
        lambda: elementwise.bind_shift_copy(x, 0, y, 0, 3),
        lambda: elementwise.bind_add([y, x], y),
        lambda: pooling.bind_pool(pool, x, 0, 0, Blocked.empty(1, 3, 2, 2), 0, 0),
        lambda: prepared.run(Blocked.empty(1, 3, 4, 4, Margin(1, 1, 1, 1), NARROW), y),
        lambda: first.run(y, x),
        lambda: first.run(y, Blocked.empty(1, 3, 4, 4), x),
    ):
        with pytest.raises(KernelError, match="16"):
            attempt()
    for channels, lanes in ((5, NARROW), (0, NARROW), (3, 8)):
        with pytest.raises(KernelError, match=f"{channels} channels.*{lanes} lanes"):
            Blocked.empty(1, channels, 4, 4, lanes=lanes)
