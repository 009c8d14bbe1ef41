"""Convolutions in 16 bits against the float64 reference, on each instruction set and wherever their maps lie."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fogconv.errors import KernelError
from fogconv.ir.geometry import ConvSpec
from fogconv.ir.memory.algorithm import HALF, packed_bytes
from fogconv.ir.precision.elements import HALVES, WEIGHTS_OF, Half
from fogconv.ir.precision.halves import floats, rounded
from fogconv.kernels import prepare_conv2d, reference
from fogconv.kernels.codegen.isa import AVX2, AVX512, GENERIC, NEON, Isa, host_eights, host_family, host_isa, host_pairs
from fogconv.kernels.conv.direct import DirectKernel
from fogconv.kernels.conv.half_tile import FLUSHED
from fogconv.kernels.conv.halves import halves_isa, paired, reads_of
from fogconv.kernels.conv.select import candidates, prepare_kernel
from fogconv.kernels.maps.blocked import Blocked, Margin
from fogconv.kernels.maps.halves import bind_narrow, bind_widen
from fogconv.kernels.maps.scratch import Scratch
from tests.kernels.conv.test_conv import DIRECT, buffer_without, sample, specs
from tests.kernels.random_maps import Array, pack, unpack

P1 = (1, 1, 1, 1)

UNIT: dict[Half, float] = {"fp16": 2.0**-11, "bf16": 2.0**-8}
"""The largest relative error of one rounding."""

GAMMA = FLUSHED * UNIT["fp16"] / (1 - FLUSHED * UNIT["fp16"])
"""The largest error of a sum of so many products in fp16, of the sum of their absolute values."""


def in_halves(x: Array, half: Half, margin: Margin = Margin()) -> Blocked:
    """A map of 16 bits; its last lanes, beyond the channels, hold numbers, too, as after a kernel's store."""
    wide = pack(x, margin)
    found = Blocked.empty(*x.shape, margin, kind=np.dtype(WEIGHTS_OF[half]))
    bind_narrow(wide, found)()
    return found


def values(found: Blocked) -> Array:
    if found.data.dtype == np.float32:
        return unpack(found)
    wide = Blocked.empty(found.batch, found.channels, found.height, found.width)
    bind_widen(found, wide)()
    return unpack(wide)


def exactly(x: Array, half: Half) -> Array:
    return floats(rounded(x, half))


def sums_off(spec: ConvSpec, x: Array, weight: Array, exact: np.ndarray, reads: str) -> float:
    """The bound on a sum's error: of sums in fp32, or of sums in fp16 that are flushed to it."""
    if reads != "fp16":
        return DIRECT * max(1.0, float(np.abs(exact).max()))
    products = reference.conv2d(np.abs(x), np.abs(weight), None, replace(spec, element="fp32"))
    return GAMMA * float(products.max())


def check(spec: ConvSpec, half: Half, activation: str | None, residual: Array | None, made: bool, threads: int) -> None:
    """The most general algorithm; Winograd's is in `test_half_winograd`. ``made``: in 16 bits. Where the kernel can't, it
    must say so."""
    x, weight, bias = sample(spec)
    spec = replace(spec, element=half)
    [algorithm, *_] = candidates(spec, host_isa())
    options = {"activation": activation, "threads": threads, "algorithm": algorithm}
    prepared = prepare_conv2d(spec, rounded(weight, half), bias, **options)  # type: ignore[arg-type]
    margin = Margin(*spec.padding)
    source = pack(exactly(x, half), margin) if prepared.reads == "fp32" else in_halves(x, half, margin)
    out = Blocked.empty(*spec.output_shape, kind=np.dtype(WEIGHTS_OF[half]) if made else np.float32)
    more = None if residual is None else in_halves(residual, half) if made else pack(exactly(residual, half))
    if made and not prepared.makes_halves:
        with pytest.raises(KernelError):
            prepared.run(source, out, more)
        return
    before = buffer_without(out)
    prepared.run(source, out, more)
    exact = reference.conv2d(exactly(x, half), exactly(weight, half), bias, replace(spec, element="fp32"))
    most = sums_off(spec, x, weight, exact, prepared.reads)
    exact = reference.activate(exact if residual is None else exact + exactly(residual, half), activation)
    rounding = UNIT[half] * float(np.abs(exact).max()) if made else 0.0
    assert np.abs(values(out) - exact).max() <= most + rounding
    assert np.array_equal(buffer_without(out), before)
    assert np.isfinite(floats(out.data) if made else out.data).all()


@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    specs(),
    st.sampled_from(HALVES),
    st.sampled_from((None, "relu", "relu6", "silu", "clip(-0.5, 0.75)")),
    st.booleans(),
    st.booleans(),
    st.sampled_from((1, 2)),
)
def test_every_layer_is_right(
    spec: ConvSpec, half: Half, activation: str | None, with_residual: bool, made: bool, threads: int
) -> None:
    shape = spec.output_shape
    residual = np.random.default_rng(2).standard_normal(shape).astype(np.float32) if with_residual else None
    check(spec, half, activation, residual, made, threads)


SETS = [NEON] if host_family() == "aarch64" else [AVX512, AVX2, NEON, GENERIC]
KINDS = (
    ConvSpec(21, 37, 5, 9, (3, 3), (1, 1), P1),
    ConvSpec(3, 12, 9, 9, (3, 3), (2, 2), P1),
    ConvSpec(24, 24, 5, 9, (3, 3), (1, 1), P1, groups=24),
    ConvSpec(16, 16, 5, 9, (3, 3), (1, 1), P1, groups=4),
    ConvSpec(42, 32, 3, 5, (3, 3), (1, 1), P1, groups=2),
    ConvSpec(70, 20, 1, 1, (1, 1)),
    ConvSpec(20, 5, 2, 3, (2, 3)),
)


@pytest.mark.arm
@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize(
    "isa", [AVX512, AVX2, NEON, GENERIC] if host_family() == "x86" else [NEON], ids=lambda isa: isa.name
)
def test_each_instruction_set_is_right_for_every_kind(isa: Isa, half: Half) -> None:
    for spec in KINDS:
        x, weight, bias = sample(spec)
        spec = replace(spec, element=half)
        [algorithm, *_] = candidates(spec, isa)
        kernel = prepare_kernel(algorithm, spec, isa, rounded(weight, half), bias, None, Scratch())
        reads = getattr(kernel, "reads", "fp32")
        margin = Margin(*spec.padding)
        source = pack(exactly(x, half), margin) if reads == "fp32" else in_halves(x, half, margin)
        out = Blocked.empty(*spec.output_shape)
        kernel.bind(source, out, None, 0, 1)()
        exact = reference.conv2d(exactly(x, half), exactly(weight, half), bias, replace(spec, element="fp32"))
        assert np.abs(unpack(out) - exact).max() <= sums_off(spec, x, weight, exact, reads)


def test_weights_stay_in_16_bits_and_can_be_had_back() -> None:
    spec = ConvSpec(21, 40, 6, 6, (3, 3), (1, 1), P1)
    weight, bias = sample(spec)[1:]
    for half in HALVES:
        prepared = prepare_conv2d(replace(spec, element=half), rounded(weight, half), bias, algorithm=HALF)
        lanes = 48 * (22 if prepared.reads == half else 21) * 9
        assert prepared.weight_bytes <= 2 * lanes + 4 * 48
        found, known = prepared.unpack()
        assert prepared.exact and np.array_equal(found, rounded(weight, half)) and np.array_equal(known, bias)


@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize("groups", [24, 1])
def test_weights_may_stay_in_fp32(half: Half, groups: int) -> None:
    """Of depthwise convs, and of one group that was cut out."""
    size = 24 // groups if groups > 1 else 5
    spec = ConvSpec(groups * size, groups * size, 5, 9, (3, 3), (1, 1), P1, groups=groups)
    x, weight, bias = sample(spec)
    prepared = prepare_conv2d(replace(spec, element=half), weight, bias)
    assert prepared.reads == "fp32" and prepared.exact and np.array_equal(prepared.unpack()[0], weight)
    assert prepared.weight_bytes <= packed_bytes(prepared.spec, prepared.algorithm)
    exact = reference.conv2d(exactly(x, half), weight, bias, spec)
    for made in {False, prepared.makes_halves}:
        out = Blocked.empty(*spec.output_shape, kind=np.dtype(WEIGHTS_OF[half]) if made else np.float32)
        prepared.run(pack(exactly(x, half), Margin(*spec.padding)), out)
        rounding = UNIT[half] * float(np.abs(exact).max()) if made else 0.0
        assert np.abs(values(out) - exact).max() <= DIRECT * max(1.0, float(np.abs(exact).max())) + rounding
    wider = prepared.at(replace(prepared.spec, height=6))
    assert wider.algorithm == prepared.algorithm


def test_pairs_are_read_only_where_the_cpu_multiplies_them_and_groups_do_not_split_them() -> None:
    spec = ConvSpec(42, 32, 3, 5, (3, 3), (1, 1), P1, groups=2, element="bf16")
    assert reads_of(spec, host_isa()) == "fp32"
    assert not host_pairs(AVX2) and not host_pairs(NEON) and not host_eights(AVX512)
    assert reads_of(replace(spec, groups=1), host_isa()) == ("bf16" if host_pairs(host_isa()) else "fp32")
    assert reads_of(replace(spec, element="fp16"), host_isa()) == ("fp16" if host_eights(host_isa()) else "fp32")


EIGHTS = (
    ConvSpec(200, 32, 3, 5, (1, 1)),
    ConvSpec(40, 37, 6, 7, (3, 3), (1, 1), P1, batch=2),
    ConvSpec(3, 12, 9, 9, (3, 3), (2, 2), P1),
    ConvSpec(36, 16, 4, 9, (1, 7), (1, 1), (0, 0, 3, 3)),
    ConvSpec(64, 32, 5, 7, (2, 3), (1, 1), P1, (2, 2)),
    ConvSpec(42, 32, 3, 5, (3, 3), (1, 1), P1, groups=2),
    ConvSpec(300, 20, 1, 1, (1, 1)),
)


@pytest.mark.arm
@pytest.mark.skipif(host_family() == "aarch64" and not host_eights(NEON), reason="the CPU lacks FEAT_FP16")
@pytest.mark.parametrize("spec", EIGHTS, ids=str)
def test_sums_in_fp16_keep_their_bound(spec: ConvSpec) -> None:
    """The kernel for aarch64's fp16, on other CPUs, too, where its multiply-adds are emulated."""
    x, weight, bias = sample(spec)
    spec = replace(spec, element="fp16")
    kernel = DirectKernel.prepare(spec, halves_isa(NEON, "fp16"), rounded(weight, "fp16"), bias, "relu", reads="fp16")
    assert kernel.reads == "fp16"
    margin, plain = Margin(*spec.padding), replace(spec, element="fp32")
    x, weight = exactly(x, "fp16"), exactly(weight, "fp16")
    residual = exactly(np.random.default_rng(2).standard_normal(spec.output_shape).astype(np.float32), "fp16")
    exact = reference.activate(reference.conv2d(x, weight, bias, plain) + residual, "relu")
    products = reference.conv2d(np.abs(x), np.abs(weight), None, plain)
    for made in (True, False):
        out = Blocked.empty(*spec.output_shape, kind=np.float16 if made else np.float32)
        more = in_halves(residual, "fp16") if made else pack(residual)
        for thread in range(2):
            kernel.bind(in_halves(x, "fp16", margin), out, more, thread, 2)()
        rounding = UNIT["fp16"] * exact if made else 0.0
        off = np.abs(values(out) - exact)
        assert (off <= GAMMA * products + rounding + 1e-5).all()
        # Roundings mostly cancel: what is usual is far below the bound.
        assert off.max() <= 4e-3 * products.max()


def test_a_pair_holds_the_lower_channel_in_the_lower_bits() -> None:
    weight: NDArray[Any] = np.arange(2 * 3 * 2, dtype=np.uint16).reshape(2, 3, 1, 2)
    found = paired(weight)
    assert found.shape == (2, 2, 1, 2)
    assert np.array_equal(found & 0xFFFF, weight[:, ::2]) and np.array_equal(found[:, :1] >> 16, weight[:, 1:2])
    assert not (found[:, 1] >> 16).any()


def test_weights_of_another_type_are_refused() -> None:
    spec = ConvSpec(4, 4, 3, 3, (1, 1), element="bf16")
    with pytest.raises(KernelError, match="the weight must be uint16"):
        prepare_conv2d(spec, np.zeros(spec.weight_shape, np.float16))
    with pytest.raises(KernelError, match="maps of uint8 have kernels of their own"):
        prepare_conv2d(replace(spec, element="uint8"), np.zeros(spec.weight_shape, np.float32))
