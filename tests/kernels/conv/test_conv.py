"""Convolution kernels against the float64 reference: every algorithm, instruction set, margin, epilogue and split."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fogconv.errors import GeometryError, KernelError
from fogconv.ir.geometry import ConvSpec
from fogconv.kernels import conv2d, prepare_conv2d, reference
from fogconv.kernels.codegen.isa import AVX2, AVX512, GENERIC, NEON, Isa, host_isa
from fogconv.kernels.conv import direct, tiling, winograd_passes
from fogconv.kernels.conv.autotune import parse
from fogconv.kernels.conv.direct import DirectKernel
from fogconv.kernels.conv.select import candidates, choose, prepare_kernel
from fogconv.kernels.conv.tuning_table import key
from fogconv.kernels.conv.winograd import form_of
from fogconv.kernels.conv.winograd_matrices import Form
from fogconv.kernels.maps.blocked import Blocked, Margin
from fogconv.kernels.maps.scratch import Scratch
from tests.kernels.algorithms import algorithms
from tests.kernels.random_maps import Array, Surroundings, pack, place, random, surroundings, unpack

DIRECT, WINOGRAD2, WINOGRAD4, WINOGRAD6 = 5e-6, 5e-6, 5e-5, 1e-4
BOUND = dict.fromkeys(("direct", "depthwise", "grouped", "linear"), DIRECT) | {
    "winograd4": WINOGRAD4,
    "winograd6": WINOGRAD6,
}
ACTIVATIONS = (None, "relu", "relu6", "silu", "hardswish", "hardsigmoid", "clip(-0.5, 0.75)", "leaky_relu(0.1)", "gelu(0.5)")

P1 = (1, 1, 1, 1)


def bound(algorithm: str, spec: ConvSpec) -> float:
    """The promised error; F(2×2, 3×3) is as exact as direct convolution, larger kernels are not."""
    return BOUND.get(algorithm, WINOGRAD2 if max(spec.kernel) == 3 else WINOGRAD4)


def error(found: Array, exact: np.ndarray) -> float:
    return float(np.abs(found - exact).max() / np.abs(exact).max())


def buffer_without(view: Blocked) -> Array:
    """All that lies in a map's buffer around the map (whose last lanes may be written)."""
    base = view.data
    while isinstance(base.base, np.ndarray):
        base = base.base
    kept = view.interior.copy()
    view.interior[...] = 0
    around = base.copy()
    view.interior[...] = kept
    return around


def sample(spec: ConvSpec, seed: int = 0) -> tuple[Array, Array, Array]:
    """Input, weight and bias."""
    rng = np.random.default_rng(seed)
    return random(rng, *spec.input_shape), random(rng, *spec.weight_shape), random(rng, spec.out_channels)


@st.composite
def specs(draw: st.DrawFn) -> ConvSpec:
    """Layers of every kind, with few distinct tile shapes so that little is compiled."""
    kind = draw(st.sampled_from(("dense", "dense", "dense", "depthwise", "groups")))
    if kind == "dense":
        groups, c, f = 1, draw(st.sampled_from((3, 16, 21))), draw(st.sampled_from((5, 16, 37)))
    elif kind == "depthwise":
        c = f = groups = draw(st.sampled_from((16, 24)))
    else:
        groups, c, f = draw(st.sampled_from(((4, 16, 16), (3, 12, 24), (2, 42, 32), (2, 10, 64))))
    kernel = draw(st.sampled_from(((1, 1), (3, 3), (3, 3), (2, 5), (1, 7))))
    dilation = draw(st.sampled_from(((1, 1), (1, 1), (2, 1), (1, 2))))
    padding = tuple(draw(st.integers(0, 2)) for _ in range(4))
    height, width = draw(st.integers(1, 9)), draw(st.sampled_from((4, 7, 15)))
    stride = draw(st.sampled_from(((1, 1), (1, 1), (2, 2))))
    need = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    height = max(height, need[0] - padding[0] - padding[1])
    width = max(width, need[1] - padding[2] - padding[3])
    return ConvSpec(c, f, height, width, kernel, stride, padding, dilation, groups, draw(st.integers(1, 2)))  # type: ignore[arg-type]


@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(specs(), st.sampled_from(ACTIVATIONS), st.booleans(), surroundings, surroundings, st.data())
def test_every_layer_is_right_wherever_its_maps_lie(
    spec: ConvSpec,
    activation: str | None,
    with_residual: bool,
    around_x: Surroundings,
    around_out: Surroundings,
    data: st.DataObject,
) -> None:
    algorithm = data.draw(st.sampled_from(algorithms(spec, host_isa())))
    threads = data.draw(st.sampled_from((1, 2)))
    rng = np.random.default_rng(1)
    x, weight, bias = sample(spec)
    prepared = prepare_conv2d(spec, weight, bias, activation=activation, algorithm=algorithm, threads=threads)
    assert all(a >= b for a, b in zip(prepared.wanted_margin, spec.padding, strict=True))
    margin = prepared.wanted_margin if data.draw(st.booleans()) else Margin(*spec.padding)
    # Beyond the padding a margin may hold anything finite; the padding itself is zeros.
    source = pack(x, margin)
    top, bottom, left, right = spec.padding
    window = (
        slice(margin.top - top, margin.top + spec.height + bottom),
        slice(margin.left - left, margin.left + spec.width + right),
    )
    beyond = np.full_like(source.data, 0.5)
    beyond[:, :, window[0], window[1]] = source.data[:, :, window[0], window[1]]
    source.data[...] = beyond
    out = place(np.zeros(spec.output_shape, np.float32), around_out, rng)
    written_before = buffer_without(out)
    residual = random(rng, *spec.output_shape) if with_residual else None
    prepared.run(source, out, place(residual, around_x, rng) if residual is not None else None)
    exact = reference.conv2d(x, weight, bias, spec)
    scale = np.abs(exact).max()
    exact = reference.activate(exact if residual is None else exact + residual, activation)
    assert np.abs(unpack(out) - exact).max() <= bound(algorithm, spec) * max(1.0, scale)
    assert np.array_equal(buffer_without(out), written_before)


KINDS = (
    ConvSpec(21, 37, 5, 9, (3, 3), (1, 1), P1),
    ConvSpec(3, 12, 9, 9, (3, 3), (2, 2), P1),
    ConvSpec(24, 24, 5, 9, (3, 3), (1, 1), P1, groups=24),
    ConvSpec(16, 16, 5, 9, (3, 3), (1, 1), P1, groups=4),
    ConvSpec(20, 5, 2, 3, (1, 1)),
)
"""One small layer for every kind of kernel."""


def check_kernels(spec: ConvSpec, isa: Isa) -> None:
    x, weight, bias = sample(spec)
    exact = reference.conv2d(x, weight, bias, spec)
    for algorithm in algorithms(spec, isa):
        kernel = prepare_kernel(algorithm, spec, isa, weight, bias, None, Scratch())
        kernel.warm(1)
        out = Blocked.empty(*spec.output_shape)
        kernel.bind(pack(x, kernel.wanted_margin), out, None, 0, 1)()
        assert error(unpack(out), exact) <= bound(algorithm, spec), algorithm


@settings(max_examples=20, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.integers(2, 40), st.sampled_from((1, 4)), st.booleans(), st.sampled_from((None, "relu6", "silu")))
@pytest.mark.parametrize("isa", [AVX512, AVX2, NEON], ids=lambda isa: isa.name)
def test_any_number_of_depthwise_channels_is_right_and_leaves_finite_lanes(
    isa: Isa, groups: int, size: int, with_residual: bool, activation: str | None
) -> None:
    spec = ConvSpec(groups * size, groups * size, 5, 7, (3, 3), (1, 1), P1, groups=groups)
    x, weight, bias = sample(spec)
    residual = random(np.random.default_rng(2), *spec.output_shape) if with_residual else None
    kernel = prepare_kernel("depthwise", spec, isa, weight, bias, activation, Scratch())
    exact = reference.conv2d(x, weight, bias, spec)
    exact = reference.activate(exact if residual is None else exact + residual, activation)
    for threads in (1, 2):
        out = Blocked.empty(*spec.output_shape)
        for thread in range(threads):
            kernel.bind(pack(x, Margin(*P1)), out, pack(residual) if residual is not None else None, thread, threads)()
        assert np.abs(unpack(out) - exact).max() <= DIRECT * max(1.0, float(np.abs(exact).max()))
        assert np.isfinite(out.data).all()


LAST_BLOCKS = (
    ConvSpec(21, 1, 5, 9, (3, 3), (1, 1), P1),
    ConvSpec(64, 1, 4, 7, (1, 1)),
    ConvSpec(4, 1, 5, 9, (3, 3), (2, 2), P1),
    ConvSpec(60, 3, 4, 7, (3, 1), (1, 1), (1, 1, 0, 0), (2, 1), groups=3),
    ConvSpec(54, 3, 4, 7, (3, 1), (1, 1), (1, 1, 0, 0), groups=3),
)
"""Layers of which any number of output channels (in each group) is wanted: input channels in fours, and not."""


@settings(max_examples=15, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(LAST_BLOCKS), st.integers(1, 40), st.booleans(), st.sampled_from((None, "relu6", "silu")), st.data())
@pytest.mark.parametrize("isa", [AVX512, AVX2, NEON], ids=lambda isa: isa.name)
def test_any_number_of_output_channels_is_right_and_leaves_finite_lanes(
    isa: Isa, layer: ConvSpec, channels: int, with_residual: bool, activation: str | None, data: st.DataObject
) -> None:
    spec = replace(layer, out_channels=channels * layer.groups)
    algorithm = data.draw(st.sampled_from(algorithms(spec, isa)))
    x, weight, bias = sample(spec)
    residual = random(np.random.default_rng(2), *spec.output_shape) if with_residual else None
    kernel = prepare_kernel(algorithm, spec, isa, weight, bias, activation, Scratch())
    kernel.warm(1)
    source = pack(x, kernel.wanted_margin)
    if spec.in_channels % 16:
        source.data[:, -1, ..., spec.in_channels % 16 :] = np.nan  # whoever reads a lane beyond the channels spoils sums
    out = Blocked.empty(*spec.output_shape)
    kernel.bind(source, out, pack(residual) if residual is not None else None, 0, 1)()
    exact = reference.conv2d(x, weight, bias, spec)
    scale = max(1.0, float(np.abs(exact).max()))
    exact = reference.activate(exact if residual is None else exact + residual, activation)
    assert np.abs(unpack(out) - exact).max() <= bound(algorithm, spec) * scale
    if algorithm == "direct":
        assert np.isfinite(out.data).all()
    if not kernel.exact:
        with pytest.raises(KernelError, match="from the plain ones"):
            kernel.unpack()
        return
    back, bias_back = kernel.unpack()
    assert np.array_equal(back, weight)
    assert bias_back is not None
    assert np.array_equal(bias_back, bias)


@pytest.mark.parametrize("isa", [AVX2, NEON], ids=lambda isa: isa.name)
@pytest.mark.parametrize("spec", KINDS, ids=key)
def test_the_other_instruction_sets_kernels_are_right(isa: Isa, spec: ConvSpec) -> None:
    check_kernels(spec, isa)


def test_without_vector_instructions_worth_the_name_it_is_still_right() -> None:
    check_kernels(KINDS[1], GENERIC)


@pytest.mark.arm
@pytest.mark.parametrize("spec", KINDS, ids=key)
def test_this_machines_kernels_are_right(spec: ConvSpec) -> None:
    check_kernels(spec, host_isa())


LAYERS = (
    "3x64x64-32k7x7s2p3",
    "64x28x28-64k3x3s1p1",
    "256x14x14-64k1x1s1",
    "512x7x7-32k3x3s1p1",
    "128x17x17-32k1x7s1p0x0x3x3",
    "128x17x17-32k7x1s1p3x3x0x0",
    "48x35x35-64k5x5s1p2",
    "384x8x8-32k1x3s1p0x0x1x1",
    "96x28x28-96k3x3s2p1g96",
    "512x7x7-48k7x7s1",
)

ALL_LAYERS = (
    *("3x224x224-64k7x7s2p3", "64x56x56-64k1x1s1", "64x56x56-64k3x3s1p1", "256x56x56-128k1x1s1", "128x56x56-128k3x3s2p1"),
    *(
        "128x28x28-128k3x3s1p1",
        "512x28x28-256k1x1s1",
        "256x14x14-256k3x3s1p1",
        "1024x14x14-2048k1x1s2",
        "512x7x7-512k3x3s1p1",
    ),
    *("3x224x224-64k3x3s1p1", "64x112x112-128k3x3s1p1", "256x56x56-256k3x3s1p1", "512x28x28-512k3x3s1p1"),
    *("512x14x14-512k3x3s1p1", "32x149x149-32k3x3s1", "80x73x73-192k3x3s1", "48x35x35-64k5x5s1p2", "288x35x35-384k3x3s2"),
    *("192x17x17-192k1x7s1p0x0x3x3", "192x17x17-192k7x1s1p3x3x0x0", "448x8x8-384k3x3s1p1", "384x8x8-384k1x3s1p0x0x1x1"),
    *("32x112x112-32k3x3s1p1g32", "960x7x7-960k3x3s1p1g960", "96x112x112-96k3x3s2p1g96"),
)
"""Every kind of layer of ResNet-50, VGG-16, Inception v3 and MobileNet v2, at full size."""


def check_errors(word: str) -> None:
    spec = parse(word)
    x, weight, _ = sample(spec)
    exact = reference.conv2d(x, weight, None, spec)
    for algorithm in algorithms(spec, host_isa()):
        prepared = prepare_conv2d(spec, weight, algorithm=algorithm)
        out = Blocked.empty(*spec.output_shape)
        prepared.run(pack(x, prepared.wanted_margin), out)
        assert error(unpack(out), exact) <= bound(algorithm, spec), algorithm


@pytest.mark.parametrize("word", LAYERS)
def test_errors_against_float64_keep_their_bounds(word: str) -> None:
    check_errors(word)


DISTRIBUTIONS = {
    "normal": lambda x: x,
    "relu": lambda x: np.maximum(x, 0),
    "positive": lambda x: np.abs(x) + 1,
    "smooth": lambda x: np.cumsum(np.cumsum(x, 2), 3) / x.shape[2],
    "heavy": lambda x: x**5,
}


@pytest.mark.parametrize("inputs", DISTRIBUTIONS)
@pytest.mark.parametrize("isa", [host_isa(), NEON], ids=lambda isa: isa.name)
def test_large_tiles_keep_their_bound_whatever_the_inputs(isa: Isa, inputs: str) -> None:
    """Errors grow with the channels: maps that F(6×6, 3×3) is taken for have at most 256."""
    spec = ConvSpec(256, 16, 56, 56, (3, 3), (1, 1), P1)
    x, weight, bias = sample(spec)
    x = DISTRIBUTIONS[inputs](x)
    kernel = prepare_kernel("winograd6", spec, isa, weight, bias, None, Scratch())
    out = Blocked.empty(*spec.output_shape)
    kernel.bind(pack(x, kernel.wanted_margin), out, None, 0, 1)()
    assert error(unpack(out), reference.conv2d(x, weight, bias, spec)) <= WINOGRAD6


@pytest.mark.full
@pytest.mark.parametrize("word", ALL_LAYERS)
def test_errors_against_float64_keep_their_bounds_at_full_size(word: str) -> None:
    check_errors(word)


@pytest.mark.parametrize("algorithm", ["direct", "winograd2", "winograd4", "winograd6"])
def test_threads_and_margins_do_not_change_a_single_bit(algorithm: str) -> None:
    spec = ConvSpec(21, 53, 15, 13, (3, 3), (1, 1), P1)
    x, weight, bias = sample(spec)
    results = []
    for threads in (1, 2):
        prepared = prepare_conv2d(spec, weight, bias, algorithm=algorithm, threads=threads)
        for margin in (Margin(*P1), prepared.wanted_margin, Margin(3, 9, 2, 9)):
            out = Blocked.empty(*spec.output_shape)
            prepared.run(pack(x, margin), out)
            results.append(unpack(out))
    assert all(np.array_equal(results[0], other) for other in results)


def test_tiles_on_the_stack_and_in_registers_give_the_same_bits() -> None:
    """F(4×4, 3×3)'s are on the stack with 16 registers only. With whole blocks of channels the products are the same."""
    spec, form = ConvSpec(32, 32, 15, 13, (3, 3), (1, 1), P1), Form((4, 4), (3, 3))
    x, weight, bias = sample(spec)
    assert [winograd_passes.pays(form, isa) for isa in (AVX2, NEON)] == [True, False]
    results = []
    for isa in (AVX2, NEON):
        kernel = prepare_kernel("winograd4", spec, isa, weight, bias, "relu", Scratch())
        out = Blocked.empty(*spec.output_shape)
        kernel.bind(pack(x, Margin(*P1)), out, None, 0, 1)()
        results.append(unpack(out))
    assert np.array_equal(*results)


@settings(deadline=None, max_examples=30)
@given(st.integers(17, 300), st.integers(100, 200), st.integers(1, 5), st.integers(2, 5))
def test_threads_that_share_the_output_channels_have_equal_parts(f: int, c: int, size: int, threads: int) -> None:
    spec = ConvSpec(c, f, size, size, (1, 1)) if size > 1 else ConvSpec(c, f, 2, 1, (1, 1))
    weight = np.ones(spec.weight_shape, np.float32)
    kernel = DirectKernel.prepare(spec, host_isa(), weight, None, None)
    done: dict[tuple[int, int, int], int] = {}
    each = []
    for thread in range(threads):
        pieces = list(kernel._pieces(thread, threads, *((0, 1) if kernel._split_by_groups(threads) else (thread, threads))))
        each.append({p.first: 0 for p in kernel.passes})
        for p, first, last, start, stop in pieces:
            assert first < last and start < stop
            each[-1][p.first] += (last - first) * (stop - start)
            for tile in ((p.first, group, band) for group in range(first, last) for band in range(start, stop)):
                done[tile] = done.get(tile, 0) + 1
    assert set(done.values()) == {1}
    assert len(done) == sum(p.count * len(p.cover.bands) for p in kernel.passes)
    if kernel._split_by_groups(threads):
        for first in each[0]:
            assert max(parts[first] for parts in each) <= min(parts[first] for parts in each) + 1


@pytest.mark.parametrize("outputs", [160, 200, 212])
@pytest.mark.parametrize("threads", [2, 3, 4])
def test_sharing_a_group_of_output_channels_does_not_change_a_single_bit(outputs: int, threads: int) -> None:
    spec = ConvSpec(96, outputs, 5, 5, (1, 1))
    x, weight, bias = sample(spec)
    results = []
    for number in (1, threads):
        prepared = prepare_conv2d(spec, weight, bias, activation="relu", algorithm="direct", threads=number)
        out = Blocked.empty(*spec.output_shape)
        prepared.run(pack(x, prepared.wanted_margin), out)
        results.append(unpack(out))
    assert np.array_equal(*results)


@pytest.mark.parametrize("algorithm", ["direct", "winograd4", "winograd6"])
def test_the_residual_may_be_the_output(algorithm: str) -> None:
    spec = ConvSpec(16, 21, 6, 10, (3, 3), (1, 1), P1)
    x, weight, bias = sample(spec)
    residual = random(np.random.default_rng(3), *spec.output_shape)
    prepared = prepare_conv2d(spec, weight, bias, activation="relu", algorithm=algorithm)
    out = pack(residual, Margin(1, 1, 1, 1))
    prepared.run(pack(x, prepared.wanted_margin), out, out)
    exact = reference.activate(reference.conv2d(x, weight, bias, spec) + residual, "relu")
    assert error(unpack(out), exact) <= WINOGRAD4


def test_a_shard_of_rows_with_a_border_on_one_side_only_matches_its_part_of_the_whole() -> None:
    spec = ConvSpec(21, 24, 12, 9, (3, 3), (1, 1), P1)
    x, weight, bias = sample(spec)
    whole = reference.conv2d(x, weight, bias, spec)
    top = replace(spec, height=6, padding=(1, 0, 1, 1))
    prepared = prepare_conv2d(spec, weight, bias, algorithm="winograd4")
    part = prepared.at(top)
    assert part.spec == top
    out = Blocked.empty(*top.output_shape)
    part.run(pack(x, Margin(1, 1, 1, 1)).view(slice(0, 21), slice(0, 6), slice(0, 9)), out)
    assert error(unpack(out), whole[:, :, :5]) <= WINOGRAD4


@pytest.mark.parametrize("algorithm", ["direct", "winograd4", "depthwise", "grouped"])
def test_another_size_shares_the_packed_weights(algorithm: str) -> None:
    groups = {"depthwise": 48, "grouped": 2}.get(algorithm, 1)
    outputs = 48 if algorithm == "depthwise" else 42
    spec = ConvSpec(48, outputs, 28, 28, (3, 3), (1, 1), P1, groups=groups)
    x, weight, bias = sample(replace(spec, height=5))
    prepared = prepare_conv2d(spec, weight, bias, algorithm=algorithm)
    other = prepared.at(replace(spec, height=5, batch=1))
    packed = [getattr(p._kernel, "packed", None) or getattr(p._kernel, "_packed", None) for p in (prepared, other)]  # type: ignore[union-attr]
    assert packed[0] is packed[1]
    assert other.algorithm == algorithm
    out = Blocked.empty(*other.spec.output_shape)
    other.run(pack(x, other.wanted_margin), out)
    assert error(unpack(out), reference.conv2d(x, weight, bias, other.spec)) <= WINOGRAD4


def test_weights_are_packed_again_where_another_algorithm_is_better() -> None:
    spec = ConvSpec(64, 64, 56, 56, (3, 3), (1, 1), P1)
    tiny = replace(spec, height=1, width=1)
    assert choose(spec, GENERIC, strict=False) != choose(tiny, GENERIC, strict=False)
    x, weight, bias = sample(spec)
    there = prepare_conv2d(tiny, weight, bias)
    large = there.at(spec)
    assert large.algorithm != there.algorithm
    out = Blocked.empty(*spec.output_shape)
    large.run(pack(x, large.wanted_margin), out)
    assert error(unpack(out), reference.conv2d(x, weight, bias, spec)) <= WINOGRAD4
    with pytest.raises(KernelError, match="from the plain ones"):
        large.at(tiny)
    with pytest.raises(KernelError, match="not the same layer"):
        there.at(replace(spec, out_channels=32))


def test_a_shard_that_its_kernel_covers_by_chance_can_still_change_its_size() -> None:
    small = ConvSpec(21, 24, 3, 3, (3, 3))
    x, weight, bias = sample(replace(small, height=6, width=5))
    prepared = prepare_conv2d(small, weight, bias, activation="relu", threads=2)
    assert prepared.algorithm == "linear"
    larger = prepared.at(replace(small, height=6, width=5))
    assert larger.algorithm != "linear"
    for each, part in ((prepared, x[:, :, :3, :3]), (larger, x)):
        out = Blocked.empty(*each.spec.output_shape)
        each.run(pack(np.ascontiguousarray(part), each.wanted_margin), out)
        exact = reference.activate(reference.conv2d(part, weight, bias, each.spec), "relu")
        assert error(unpack(out), exact) <= WINOGRAD4


def test_groups_of_three_vectors_give_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where cores multiply at half the rate (see `fogconv.kernels.conv.tiling`), but not for few or many channels."""
    found = {}
    for rate in (False, True):
        monkeypatch.setattr(tiling, "half_rate", lambda isa, rate=rate: rate)
        for channels in (4, 40, 1040):
            spec = ConvSpec(channels, 150, 6, 5, (1, 1))
            x, weight, bias = sample(spec)
            kernel = DirectKernel.prepare(spec, AVX512, weight, bias, "relu")
            assert (kernel.passes[0].vectors == 3) == (rate and channels == 40)
            assert np.array_equal(kernel.unpack()[0], weight)
            out = Blocked.empty(*spec.output_shape)
            kernel.bind(pack(x), out, None, 0, 1)()
            found[rate, channels] = unpack(out)
    for channels in (4, 40, 1040):
        assert np.array_equal(found[False, channels], found[True, channels])


def test_rows_are_taken_in_chunks_only_where_that_moves_fewer_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A part of the input for all weights, or all of the input for a part of the weights: the same bits."""
    found = {}
    for chunk_bytes in (1 << 30, 4096):
        monkeypatch.setattr(direct, "CHUNK_BYTES", chunk_bytes)
        for large, spec in {
            "input": ConvSpec(16, 160, 12, 12, (1, 1)),
            "weights": ConvSpec(16, 160, 16, 16, (5, 5), (2, 2), (2, 2, 2, 2)),
            "unread": ConvSpec(16, 160, 12, 12, (1, 1), (4, 4)),
        }.items():
            x, weight, bias = sample(spec)
            kernel = DirectKernel.prepare(spec, AVX512, weight, bias, None)
            assert (kernel._chunks() > 1) == (chunk_bytes == 4096 and large == "input")
            out = Blocked.empty(*spec.output_shape)
            kernel.bind(pack(x, Margin(*spec.padding)), out, None, 0, 1)()
            assert np.array_equal(found.setdefault(large, unpack(out)), unpack(out))


def test_strict_precision_never_uses_winograd() -> None:
    spec = ConvSpec(64, 64, 56, 56, (3, 3), (1, 1), P1)
    _, weight, _ = sample(spec)
    assert prepare_conv2d(spec, weight).algorithm.startswith("winograd")
    assert prepare_conv2d(spec, weight, precision="strict").algorithm == "direct"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_direct_kernels_spread_nan_and_infinity_exactly_as_far_as_the_definition(value: float) -> None:
    for spec in (
        ConvSpec(21, 20, 6, 7, (3, 3), (1, 1), P1),
        ConvSpec(24, 24, 6, 7, (3, 3), (1, 1), P1, groups=24),
        ConvSpec(42, 20, 6, 7, (3, 3), (1, 1), P1, groups=2),
    ):
        x, weight, bias = sample(spec)
        x[0, 3, 2, 2] = value
        with np.errstate(invalid="ignore"):
            exact = reference.conv2d(x, weight, bias, spec)
        found = conv2d(x, weight, bias, padding=1, groups=spec.groups, precision="strict")
        assert np.array_equal(np.isnan(found), np.isnan(exact))
        assert np.array_equal(np.isposinf(found), np.isposinf(exact))
        relu = conv2d(x, weight, bias, padding=1, groups=spec.groups, precision="strict", activation="relu")
        assert np.array_equal(np.isnan(relu), np.isnan(exact))


def test_an_infinity_spoils_whole_tiles_of_a_winograd_kernel_and_nothing_else() -> None:
    spec = ConvSpec(16, 16, 16, 16, (3, 3), (1, 1), P1)
    x, weight, _ = sample(spec)
    x[0, 0, 5, 5] = np.inf  # inputs 3 … 8 of the tile (1, 1), whose outputs are rows and columns 4 … 7
    prepared = prepare_conv2d(spec, weight, algorithm="winograd4")
    out = Blocked.empty(*spec.output_shape)
    prepared.run(pack(x, prepared.wanted_margin), out)
    spoiled = ~np.isfinite(unpack(out)).all(axis=(0, 1))
    expected = np.zeros((16, 16), bool)
    expected[4:8, 4:8] = True
    assert np.array_equal(spoiled, expected)


def test_conv2d_takes_torchs_arguments() -> None:
    rng = np.random.default_rng(0)
    x, weight = random(rng, 2, 6, 9, 11), random(rng, 8, 3, 3, 2)
    spec = ConvSpec(6, 8, 9, 11, (3, 2), (2, 1), (1, 1, 0, 0), (1, 2), 2, 2)
    found = conv2d(x, weight, stride=(2, 1), padding=(1, 0), dilation=(1, 2), groups=2)
    assert error(found, reference.conv2d(x, weight, None, spec)) <= DIRECT
    turned = np.asfortranarray(x)
    assert np.array_equal(conv2d(turned, weight, stride=(2, 1), padding=(1, 0), dilation=(1, 2), groups=2), found)
    assert conv2d(x[:0], weight, groups=2).shape == (0, 8, 7, 10)


X, W = np.zeros((1, 4, 5, 5), np.float32), np.zeros((8, 4, 3, 3), np.float32)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: conv2d(X[0], W), r"4 dimensions, not float32 \(4, 5, 5\)"),
        (lambda: conv2d(X.astype(np.float64), W), "float64"),
        (lambda: conv2d(X, W.astype(np.int32)), "int32"),
        (lambda: conv2d(X, W[:, :2]), "1 groups of 2 input channels do not make 4"),
        (lambda: conv2d(X[:, :0], W[:, :0]), "nothing to compute"),
        (lambda: conv2d(X, W[:0]), "nothing to compute"),
        (lambda: conv2d(X, W, np.zeros(7, np.float32)), r"bias must be float32 \(8,\)"),
        (lambda: conv2d(X, W, activation="gel"), "gelu"),
        (lambda: conv2d(X, W, padding=(1, 2, 3)), "padding"),
        (lambda: conv2d(X, W, stride=(1, 1, 1)), "stride"),
        (lambda: prepare_conv2d(ConvSpec(4, 8, 5, 5, (3, 3)), W, precision="quick"), "quick"),  # type: ignore[arg-type]
        (lambda: prepare_conv2d(ConvSpec(4, 8, 5, 5, (3, 3)), W, threads=0), "0 threads"),
        (lambda: prepare_conv2d(ConvSpec(4, 8, 5, 5, (3, 3)), W, algorithm="fft"), "fft"),
    ],
)
def test_bad_calls_are_refused_with_the_reason(call: object, message: str) -> None:
    with pytest.raises(KernelError, match=message):
        call()  # type: ignore[operator]


def test_impossible_shapes_are_refused() -> None:
    for arguments in ({"padding": -1}, {"stride": 0}, {"dilation": 3}):
        with pytest.raises(GeometryError):
            conv2d(X, W, **arguments)  # type: ignore[arg-type]


def test_bad_maps_are_refused_before_anything_is_read() -> None:
    spec = ConvSpec(4, 8, 5, 5, (3, 3), (1, 1), P1)
    prepared = prepare_conv2d(spec, W)
    x, out = Blocked.empty(1, 4, 5, 5, Margin(1, 1, 1, 1)), Blocked.empty(1, 8, 5, 5)
    bad = {
        "margin": (Blocked.empty(1, 4, 5, 5, Margin(1, 1, 1, 0)), out),
        "must have the shape": (Blocked.empty(1, 4, 6, 5, Margin(1, 1, 1, 1)), out),
        "output must have": (x, Blocked.empty(1, 8, 5, 4)),
        "float32": (replace(x, data=x.data.astype(np.float64)), out),
        "aligned": (replace(x, data=np.zeros(x.data.size + 1, np.float32)[1:].reshape(x.data.shape)), out),
        "contiguous": (replace(x, data=np.zeros((*x.data.shape[:4], 32), np.float32)[..., ::2]), out),
        "overlaps": (x, Blocked(x.data[:, :, :5, :5], 8, 5, 5)),
    }
    for message, (source, target) in bad.items():
        with pytest.raises(KernelError, match=message):
            prepared.bind(source, target)


@pytest.mark.parametrize("word", ["64x56x48-32k3x1s2x1p1x0x0x2d1x2g4n2", "3x224x224-64k7x7s2p3", "64x9x9-64k3x3s1n2-bf16"])
def test_layers_have_names_that_can_be_read_back(word: str) -> None:
    assert key(parse(word)) == word
    with pytest.raises(KernelError):
        parse(word + "!")


def test_only_layers_with_a_winograd_form_get_one() -> None:
    spec = ConvSpec(16, 16, 9, 9, (3, 3), (1, 1), P1)
    assert form_of(spec, 4) is not None
    for other in (
        replace(spec, stride=(2, 2)),
        replace(spec, dilation=(2, 2)),
        replace(spec, groups=2),
        replace(spec, kernel=(7, 7)),
    ):
        assert form_of(other, 4) is None


@pytest.mark.parametrize("activation", ["clip(-inf, 0.5)", "clip(-0.5, inf)", "clip(-0.5, 0.5)"])
def test_a_clamp_with_one_bound_is_applied_by_every_algorithm(activation: str) -> None:
    spec = ConvSpec(16, 16, 7, 7, (3, 3), (1, 1), P1)
    x, weight, bias = sample(spec)
    sums = reference.conv2d(x, weight, bias, spec)
    exact = reference.activate(sums, activation)
    for algorithm in candidates(spec, host_isa()):
        kernel = prepare_kernel(algorithm, spec, host_isa(), weight, bias, activation, Scratch())
        out = Blocked.empty(*spec.output_shape)
        kernel.bind(pack(x, kernel.wanted_margin), out, None, 0, 1)()
        assert np.abs(unpack(out) - exact).max() <= bound(algorithm, spec) * np.abs(sums).max(), algorithm
