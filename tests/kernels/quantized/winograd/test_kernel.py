"""Winograd's algorithm on bytes gives the direct one's bits: every instruction set, result, border and number of threads."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fogconv.ir.geometry import ConvSpec
from fogconv.ir.memory.algorithm import QUANTIZED_WINOGRAD, packed_bytes, scratch_elements
from fogconv.kernels.codegen.isa import Isa
from fogconv.kernels.maps.scratch import Scratch
from fogconv.kernels.quantized import reference
from fogconv.kernels.quantized.arithmetic import Product, Result
from fogconv.kernels.quantized.conv import PreparedBytes, prepare
from fogconv.kernels.quantized.winograd.kernel import WinogradBytes
from tests.kernels.quantized.byte_maps import pack_bytes, random_bytes, random_weights, unpack_lanes, ways
from tests.kernels.quantized.test_conv import IDS, P1, check

pytestmark = pytest.mark.skipif(
    not {by for _, by in ways()} & {Product.VNNI, Product.PAIRS}, reason="16-bit products in pairs are x86's"
)

KINDS = (
    ConvSpec(21, 37, 5, 9, (3, 3), (1, 1), P1),
    ConvSpec(64, 80, 4, 8, (3, 3), (1, 1), P1, batch=2),
    ConvSpec(32, 48, 9, 6, (3, 3), (1, 1), (0, 2, 1, 0)),
)


def by_tiles(prepared: PreparedBytes) -> bool:
    return isinstance(prepared._kernel, WinogradBytes)


@pytest.mark.parametrize("result", Result)
@pytest.mark.parametrize("spec", KINDS, ids=lambda spec: f"{spec.in_channels}-{spec.out_channels}")
@pytest.mark.parametrize(("isa", "by"), ways(), **IDS)
def test_every_instruction_set_gives_the_same_bits(isa: Isa, by: Product, spec: ConvSpec, result: Result) -> None:
    check(spec, KINDS.index(spec), result, isa=isa, by=by, algorithm=QUANTIZED_WINOGRAD)


@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    st.sampled_from(((3, 5), (18, 16), (33, 64), (160, 32))),
    st.tuples(st.integers(3, 13), st.integers(3, 17)),
    st.tuples(*[st.integers(0, 2)] * 4),
    st.integers(1, 2),
    st.integers(0, 100),
    st.sampled_from(Result),
    st.sampled_from((1, 2, 3)),
)
def test_every_shape_equals_the_reference(
    channels: tuple[int, int],
    size: tuple[int, int],
    padding: tuple[int, int, int, int],
    batch: int,
    seed: int,
    result: Result,
    threads: int,
) -> None:
    spec = ConvSpec(*channels, *size, (3, 3), (1, 1), padding, batch=batch)
    check(spec, seed, result, threads, algorithm=QUANTIZED_WINOGRAD)


@pytest.mark.parametrize("pattern", range(4))
def test_the_largest_numbers_are_exact(pattern: int) -> None:
    """Maps and weights for which V, U and their sums are as large as they can be, far beyond 32 bits together."""
    spec = ConvSpec(64, 16, 12, 12, (3, 3), (1, 1), P1)
    rows, columns = np.indices((12, 12))
    x = np.zeros(spec.input_shape, np.uint8)
    x[...] = 255 * ((rows + pattern % 2) // 2 % 2 == (columns + pattern // 2) // 2 % 2)
    weight = np.full(spec.weight_shape, 127 if pattern % 2 else -127, np.int8)
    prepared = prepare(spec, weight, None, 0, algorithm=QUANTIZED_WINOGRAD)
    assert by_tiles(prepared)
    out = prepared.empty_output()
    prepared.run(pack_bytes(x, 0, prepared.wanted_margin), out)
    assert np.array_equal(unpack_lanes(out), reference.conv_sums(spec, x, weight, 0))


def test_a_layer_whose_sums_could_be_too_large_is_computed_directly() -> None:
    """From 2²⁵ on 64 times a sum has no sign left in 32 bits."""
    spec = ConvSpec(144, 16, 4, 4, (3, 3), (1, 1), P1)
    x = np.full(spec.input_shape, 255, np.uint8)
    for value, fits in ((101, True), (102, False), (-101, True), (-102, False)):
        weight = np.full(spec.weight_shape, value, np.int8)
        prepared = prepare(spec, weight, None, 0, algorithm=QUANTIZED_WINOGRAD)
        assert by_tiles(prepared) == fits
        out = prepared.empty_output()
        prepared.run(pack_bytes(x, 0, prepared.wanted_margin), out)
        assert np.array_equal(unpack_lanes(out), reference.conv_sums(spec, x, weight, 0))


def test_a_layer_at_another_size_shares_its_weights_and_may_have_another_scratch() -> None:
    rng = np.random.default_rng(3)
    spec = ConvSpec(36, 24, 9, 9, (3, 3), (1, 1), P1)
    weight = random_weights(rng, *spec.weight_shape)
    prepared = prepare(spec, weight, None, 9, algorithm=QUANTIZED_WINOGRAD)
    smaller = ConvSpec(36, 24, 4, 6, (3, 3), (1, 1), (0, 1, 1, 0), batch=2)
    other, x = prepared.at(smaller, Scratch()), random_bytes(rng, *smaller.input_shape)
    assert by_tiles(other) and other.weight_bytes == prepared.weight_bytes
    out = other.empty_output()
    other.run(pack_bytes(x, 9, prepared.wanted_margin), out)
    assert np.array_equal(unpack_lanes(out)[:, :24], reference.conv_sums(smaller, x, weight, 9))


@pytest.mark.parametrize("spec", KINDS, ids=lambda spec: f"{spec.in_channels}-{spec.out_channels}")
def test_it_takes_no_more_memory_than_the_planner_counts(spec: ConvSpec) -> None:
    scratch = Scratch()
    weight = np.ones(spec.weight_shape, np.int8)
    prepared = prepare(spec, weight, None, 0, algorithm=QUANTIZED_WINOGRAD, scratch=scratch)
    assert prepared.weight_bytes <= packed_bytes(spec, QUANTIZED_WINOGRAD)
    scratch.reserve(scratch_elements(spec, QUANTIZED_WINOGRAD), 1)
    reserved = scratch.nbytes
    prepared.run(prepared.empty_input(), prepared.empty_output())
    assert scratch.nbytes == reserved
