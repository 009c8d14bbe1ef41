"""Convolutions on bytes equal the reference to the last bit: every instruction set, shape, border and result."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fogconv.errors import KernelError
from fogconv.ir.geometry import ConvSpec
from fogconv.kernels.codegen.isa import Isa
from fogconv.kernels.maps.blocked import Blocked, Margin
from fogconv.kernels.quantized import reference
from fogconv.kernels.quantized.arithmetic import Product, Result
from fogconv.kernels.quantized.conv import prepare
from fogconv.kernels.quantized.numbers import Target
from tests.kernels.quantized.byte_maps import pack_bytes, random_bytes, random_weights, unpack_lanes, ways

P1 = (1, 1, 1, 1)

KINDS = (
    ConvSpec(21, 37, 5, 9, (3, 3), (1, 1), P1),
    ConvSpec(64, 80, 3, 5, (1, 1), batch=2),
    ConvSpec(3, 12, 9, 9, (3, 3), (2, 2), P1),
    ConvSpec(12, 20, 5, 9, (3, 3), (1, 1), (0, 2, 1, 1), (2, 1), groups=4),
    ConvSpec(40, 64, 4, 4, (1, 1), groups=2),
    ConvSpec(48, 48, 5, 6, (3, 3), (2, 1), P1, (1, 2), groups=3),
    ConvSpec(100, 10, 1, 1, (1, 1)),
    ConvSpec(24, 24, 6, 9, (3, 3), (1, 1), P1, groups=24),
    ConvSpec(16, 16, 5, 9, (3, 5), (2, 2), P1, groups=16),
    ConvSpec(16, 16, 5, 9, (3, 3), (1, 2), P1, (1, 2), groups=16),
)
"""Dense, first, grouped (within blocks and by whole ones) linear and depthwise layers."""

IDS = {"ids": lambda value: value.name if isinstance(value, Isa) else str(value)}


def check(
    spec: ConvSpec,
    seed: int,
    result: Result,
    threads: int = 1,
    isa: Isa | None = None,
    by: Product | None = None,
    algorithm: str | None = None,
) -> None:
    rng = np.random.default_rng(seed)
    x, weight = random_bytes(rng, *spec.input_shape), random_weights(rng, *spec.weight_shape)
    bias = rng.integers(-(1 << 14), 1 << 14, spec.out_channels).astype(np.int32)
    multipliers = rng.uniform(1e-4, 3e-2, spec.out_channels).astype(np.float32)
    zero_x, zero_y = (int(zero) for zero in rng.integers(0, 256, 2))
    target = Target(zero_y, int(rng.integers(0, zero_y + 1)), int(rng.integers(zero_y, 256)))
    prepared = prepare(
        spec,
        weight,
        bias,
        zero_x,
        multipliers=None if result is Result.SUMS else multipliers,
        target=target if result is Result.BYTES else None,
        threads=threads,
        isa=isa,
        product=by,
        algorithm=algorithm,
    )
    lanes = prepared.wanted_lanes if seed % 2 else 16
    # No byte of the lanes beyond the last channel may matter, nor what lies around the padding.
    source = pack_bytes(x, zero_x, Margin(*spec.padding), lanes, int(rng.integers(0, 256)), seed % 3)
    out = prepared.empty_output()
    prepared.run(source, out)
    sums = reference.conv_sums(spec, x, weight, zero_x)
    exact: dict[Result, np.ndarray] = {
        Result.SUMS: sums + bias[:, None, None],
        Result.FLOATS: reference.dequantise_sums(sums, bias, multipliers),
        Result.BYTES: reference.requantise(sums, bias, multipliers, target),
    }
    found = unpack_lanes(out)
    assert np.array_equal(found[:, : spec.out_channels], exact[result])
    assert (found[:, spec.out_channels :] == (target.zero if result is Result.BYTES else 0)).all()


@pytest.mark.parametrize("spec", KINDS, ids=lambda spec: f"{spec.in_channels}-{spec.out_channels}-{spec.groups}")
@pytest.mark.parametrize(("isa", "by"), ways(), **IDS)
def test_every_way_to_multiply_gives_the_same_bits(isa: Isa, by: Product, spec: ConvSpec) -> None:
    number = KINDS.index(spec)
    check(spec, number, list(Result)[number % 3], isa=isa, by=by)


ON_BOARDS = (
    ConvSpec(24, 16, 1, 2, (3, 3), (1, 1), P1),
    ConvSpec(3, 16, 5, 5, (3, 3), (2, 2), P1),
    ConvSpec(16, 16, 1, 2, (3, 3), (1, 1), P1, groups=16),
)
"""One tile each: an emulator takes half a minute to compile one."""


@pytest.mark.arm
@pytest.mark.parametrize("spec", ON_BOARDS, ids=lambda spec: f"{spec.in_channels}-{spec.groups}")
@pytest.mark.parametrize(("isa", "by"), ways()[:2], **IDS)
def test_what_a_board_computes_has_the_same_bits(isa: Isa, by: Product, spec: ConvSpec) -> None:
    check(spec, 1, Result.BYTES, isa=isa, by=by)


@st.composite
def specs(draw: st.DrawFn) -> ConvSpec:
    """Layers with few distinct tile shapes, so that little is compiled."""
    groups, c, f = draw(
        st.sampled_from(
            (
                (1, 3, 5),
                (1, 21, 37),
                (1, 64, 16),
                (4, 16, 16),
                (3, 12, 24),
                (2, 42, 32),
                (5, 30, 5),
                (24, 24, 24),
                (16, 16, 16),
            )
        )
    )
    kernel = draw(st.sampled_from(((1, 1), (3, 3), (2, 5), (1, 7))))
    dilation = draw(st.sampled_from(((1, 1), (1, 1), (2, 1), (1, 2))))
    padding = tuple(draw(st.integers(0, 2)) for _ in range(4))
    height, width = draw(st.integers(1, 9)), draw(st.sampled_from((4, 7, 15)))
    stride = draw(st.sampled_from(((1, 1), (2, 2), (1, 3))))
    need = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    height = max(height, need[0] - padding[0] - padding[1])
    width = max(width, need[1] - padding[2] - padding[3])
    return ConvSpec(c, f, height, width, kernel, stride, padding, dilation, groups, draw(st.integers(1, 2)))  # type: ignore[arg-type]


@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(specs(), st.integers(0, 100), st.sampled_from(Result), st.sampled_from((1, 2)))
def test_every_layer_equals_the_reference(spec: ConvSpec, seed: int, result: Result, threads: int) -> None:
    check(spec, seed, result, threads)


def test_a_layer_at_another_size_shares_its_weights() -> None:
    rng = np.random.default_rng(3)
    spec = ConvSpec(20, 24, 9, 9, (3, 3), (1, 1), P1)
    weight = random_weights(rng, *spec.weight_shape)
    prepared = prepare(spec, weight, None, 9)
    smaller = ConvSpec(20, 24, 4, 6, (3, 3), (1, 1), (0, 1, 1, 0), batch=2)
    x = random_bytes(rng, *smaller.input_shape)
    other = prepared.at(smaller)
    out = other.empty_output()
    other.run(pack_bytes(x, 9, Margin(*smaller.padding)), out)
    assert np.array_equal(unpack_lanes(out)[:, :24], reference.conv_sums(smaller, x, weight, 9))
    with pytest.raises(KernelError, match="not the same layer"):
        prepared.at(ConvSpec(20, 24, 9, 9, (3, 3), (2, 2), P1))


def test_maps_of_other_types_and_sizes_are_refused() -> None:
    spec = ConvSpec(16, 16, 4, 4, (3, 3), (1, 1), P1)
    prepared = prepare(spec, np.ones(spec.weight_shape, np.int8), None, 0)
    x, out = prepared.empty_input(), prepared.empty_output()
    with pytest.raises(KernelError, match="uint8"):
        prepared.bind(Blocked.empty(1, 16, 4, 4, Margin(*P1)), out)
    with pytest.raises(KernelError, match="int32"):
        prepared.bind(x, Blocked.empty(1, 16, 4, 4))
    with pytest.raises(KernelError, match="margin"):
        prepared.bind(Blocked.empty(1, 16, 4, 4, kind=np.uint8), out)
    with pytest.raises(KernelError, match="int8"):
        prepare(spec, np.ones(spec.weight_shape, np.float32), None, 0)  # type: ignore[arg-type]
    with pytest.raises(KernelError, match="multipliers"):
        prepare(spec, np.ones(spec.weight_shape, np.int8), None, 0, target=Target(0))
