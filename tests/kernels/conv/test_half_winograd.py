"""Winograd's algorithm on maps of 16 bits against a float64 reference that starts from the rounded inputs and weights.

A result is off by what Winograd's algorithm in fp32 is, and by one rounding of itself.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fogconv.errors import KernelError
from fogconv.ir.geometry import ConvSpec
from fogconv.ir.memory.algorithm import HALF, cheapest, packed_bytes, scratch_elements
from fogconv.ir.precision.elements import HALVES, WEIGHTS_OF, Half
from fogconv.ir.precision.halves import rounded
from fogconv.kernels import prepare_conv2d, reference
from fogconv.kernels.codegen.isa import AVX2, AVX512, GENERIC, NEON, Isa, half_rate, host_family, host_isa
from fogconv.kernels.conv import autotune, select, tuning_table
from fogconv.kernels.conv.select import candidates, prepare_kernel
from fogconv.kernels.maps.blocked import Blocked, Margin
from fogconv.kernels.maps.halves import bind_narrow
from fogconv.kernels.maps.scratch import Scratch
from fogconv.storage.swap_file import SwapFolder
from tests.kernels.conv.test_conv import P1, bound, buffer_without, sample
from tests.kernels.conv.test_half_conv import UNIT, exactly, in_halves, values
from tests.kernels.random_maps import Array, pack, unpack

WINOGRAD = ("winograd2", "winograd4", "winograd6")
OTHERS = ("winograd2", "winograd4")
"""Those of any kernel."""
SMALLEST: dict[Half, float] = {"fp16": 2.0**-24, "bf16": 2.0**-133}
"""The least positive number: a result below it is off by half of it, whatever its own size."""


def close(found: Array, exact: np.ndarray, sums: np.ndarray, algorithm: str, spec: ConvSpec, made: Half | None) -> bool:
    """Whether every value keeps its bound. ``sums``: exact ones, before residual and activation."""
    off = np.full(exact.shape, bound(algorithm, spec) * max(1.0, float(np.abs(sums).max())))
    if made is not None:
        off += UNIT[made] * (np.abs(exact) + off) + SMALLEST[made] / 2
    return bool((np.abs(found - exact) <= off).all())


def filled(x: Array, half: Half, margin: Margin, padding: Margin) -> Blocked:
    """A map of 16 bits with so much margin, of which what is beyond the padding holds other numbers than zeros."""
    narrow = in_halves(x, half, margin)
    rows = slice(margin.top - padding.top, margin.top + x.shape[2] + padding.bottom)
    columns = slice(margin.left - padding.left, margin.left + x.shape[3] + padding.right)
    beyond = np.full_like(narrow.data, rounded(np.array([0.5], np.float32), half)[0])
    beyond[:, :, rows, columns] = narrow.data[:, :, rows, columns]
    narrow.data[...] = beyond
    return narrow


@st.composite
def layers(draw: st.DrawFn) -> ConvSpec:
    """With few distinct tile shapes, so that little is compiled."""
    kernel = draw(st.sampled_from(((3, 3), (3, 3), (1, 7))))
    padding = tuple(draw(st.integers(0, 2)) for _ in range(4))
    height = max(draw(st.integers(1, 14)), kernel[0] - padding[0] - padding[1])
    width = max(draw(st.sampled_from((4, 7, 15))), kernel[1] - padding[2] - padding[3])
    channels, filters = draw(st.sampled_from((16, 21))), draw(st.sampled_from((5, 16, 37)))
    return ConvSpec(channels, filters, height, width, kernel, padding=padding, batch=draw(st.integers(1, 2)))  # type: ignore[arg-type]


@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    layers(),
    st.data(),
    st.sampled_from(HALVES),
    st.sampled_from((None, "relu", "clip(-0.5, 0.75)", "silu")),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.sampled_from((1, 2)),
)
def test_every_layer_is_right_wherever_its_maps_lie(
    spec: ConvSpec,
    data: st.DataObject,
    half: Half,
    activation: str | None,
    with_residual: bool,
    made: bool,
    wide: bool,
    threads: int,
) -> None:
    algorithm = data.draw(st.sampled_from(WINOGRAD if spec.kernel == (3, 3) else OTHERS))
    x, weight, bias = sample(spec)
    plain, spec = spec, replace(spec, element=half)
    prepared = prepare_conv2d(spec, rounded(weight, half), bias, activation=activation, algorithm=algorithm, threads=threads)
    assert prepared.reads == half and prepared.algorithm == algorithm
    padding = Margin(*spec.padding)
    source = filled(x, half, prepared.wanted_margin if wide else padding, padding)
    out = Blocked.empty(*spec.output_shape, Margin(1, 2, 1, 1), kind=WEIGHTS_OF[half if made else "fp32"])
    residual = np.random.default_rng(2).standard_normal(spec.output_shape, np.float32) if with_residual else None
    more = None if residual is None else in_halves(residual, half) if made else pack(exactly(residual, half))
    assert prepared.makes_halves == (activation != "silu")
    if made and not prepared.makes_halves:
        with pytest.raises(KernelError, match="silu is computed in fp32"):
            prepared.run(source, out, more)
        return
    before = buffer_without(out)
    prepared.run(source, out, more)
    sums = reference.conv2d(exactly(x, half), exactly(weight, half), bias, plain)
    exact = reference.activate(sums if residual is None else sums + exactly(residual, half), activation)
    assert close(values(out), exact, sums, algorithm, spec, half if made else None)
    assert np.array_equal(buffer_without(out), before)


@pytest.mark.arm
@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize(
    "isa", [AVX512, AVX2, NEON, GENERIC] if host_family() == "x86" else [NEON], ids=lambda isa: isa.name
)
def test_each_instruction_set_is_right(isa: Isa, half: Half) -> None:
    plain = ConvSpec(21, 37, 6, 9, (3, 3), (1, 1), P1)
    x, weight, bias = sample(plain)
    spec = replace(plain, element=half)
    residual = np.random.default_rng(2).standard_normal(spec.output_shape, np.float32)
    sums = reference.conv2d(exactly(x, half), exactly(weight, half), bias, plain)
    exact = reference.activate(sums + exactly(residual, half), "relu")
    for algorithm in WINOGRAD:
        kernel = prepare_kernel(algorithm, spec, isa, rounded(weight, half), bias, "relu", Scratch())
        for made in (half, None) if algorithm != "winograd2" else (half,):
            out = Blocked.empty(*spec.output_shape, kind=WEIGHTS_OF[made or "fp32"])
            more = in_halves(residual, half) if made else pack(exactly(residual, half))
            for thread in range(2):
                kernel.bind(in_halves(x, half, Margin(*spec.padding)), out, more, thread, 2)()
            assert close(values(out), exact, sums, algorithm, spec, made)


@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize("shape", [(64, 64, 56), (512, 64, 14), (256, 64, 28)], ids=str)
@pytest.mark.parametrize("threads", [1, 2])
def test_layers_of_whole_networks_keep_the_bound(shape: tuple[int, int, int], half: Half, threads: int) -> None:
    """Errors grow with the channels. Threads share the tiles, or the output channels where tiles are few."""
    channels, filters, size = shape
    plain = ConvSpec(channels, filters, size, size, (3, 3), (1, 1), P1)
    x, weight, bias = sample(plain)
    spec = replace(plain, element=half)
    exact = reference.conv2d(exactly(x, half), exactly(weight, half), bias, plain)
    for algorithm in WINOGRAD:
        prepared = prepare_conv2d(spec, rounded(weight, half), bias, algorithm=algorithm, threads=threads)
        out = Blocked.empty(*spec.output_shape, kind=WEIGHTS_OF[half])
        prepared.run(in_halves(x, half, Margin(*P1)), out)
        assert close(values(out), exact, exact, algorithm, spec, half)


@pytest.mark.parametrize("half", HALVES)
def test_a_layer_can_be_had_at_another_size_and_with_its_weights_elsewhere(half: Half, tmp_path: Path) -> None:
    spec = replace(ConvSpec(32, 40, 12, 12, (3, 3), (1, 1), P1), element=half)
    _, weight, bias = sample(spec)
    prepared = prepare_conv2d(spec, rounded(weight, half), bias, algorithm="winograd4")
    assert not prepared.exact and prepared.weight_type == WEIGHTS_OF[half]
    with pytest.raises(KernelError, match="from the plain ones"):
        prepared.unpack()
    for other in (spec, replace(spec, height=9, batch=2, padding=(0, 1, 1, 1))):
        x = sample(other)[0]
        sums = reference.conv2d(exactly(x, half), exactly(weight, half), bias, replace(other, element="fp32"))
        for layer in (prepared.at(other), prepared.stow(SwapFolder(tmp_path).store).at(other)):
            assert layer.algorithm == "winograd4"
            out = Blocked.empty(*other.output_shape, kind=WEIGHTS_OF[half])
            layer.run(in_halves(x, half, Margin(*other.padding)), out)
            assert close(values(out), sums, sums, "winograd4", other, half)


@pytest.mark.parametrize("algorithm", (HALF, *WINOGRAD))
@pytest.mark.parametrize("half", HALVES)
def test_no_algorithm_keeps_more_than_is_counted(half: Half, algorithm: str) -> None:
    spec = replace(ConvSpec(64, 60, 28, 28, (3, 3), (1, 1), P1), element=half)
    scratch = Scratch()
    weight = rounded(np.ones(spec.weight_shape, np.float32), half)
    prepared = prepare_conv2d(spec, weight, algorithm=algorithm, scratch=scratch)
    assert 0.5 * packed_bytes(spec, algorithm) <= prepared.weight_bytes <= packed_bytes(spec, algorithm)
    scratch.reserve(scratch_elements(spec, algorithm), 1)
    counted = scratch.nbytes
    kind = WEIGHTS_OF[half]
    prepared.bind(prepared.empty_input(), *(Blocked.empty(*spec.output_shape, kind=kind) for _ in range(2)))
    assert scratch.nbytes == counted and bool(counted) == (algorithm != HALF)


def test_weights_in_fp32_are_as_good() -> None:
    """Of one group that was cut out, for example."""
    plain = ConvSpec(16, 16, 9, 9, (3, 3), (1, 1), P1)
    x, weight, bias = sample(plain)
    spec = replace(plain, element="bf16")
    sums = reference.conv2d(exactly(x, "bf16"), weight, bias, plain)
    prepared = prepare_conv2d(spec, weight, bias, algorithm="winograd4")
    out = Blocked.empty(*spec.output_shape)
    prepared.run(in_halves(x, "bf16", Margin(*P1)), out)
    assert close(unpack(out), sums, sums, "winograd4", spec, None)


def test_the_input_must_be_of_the_specs_element() -> None:
    spec = replace(ConvSpec(16, 16, 9, 9, (3, 3), (1, 1), P1), element="bf16")
    prepared = prepare_conv2d(spec, rounded(sample(spec)[1], "bf16"), algorithm="winograd4")
    with pytest.raises(KernelError, match="the input: a blocked map is a uint16 array"):
        prepared.bind(Blocked.empty(*spec.input_shape, Margin(*P1)), Blocked.empty(*spec.output_shape))
    narrow = Blocked.empty(*spec.input_shape, Margin(*P1))
    target = prepared.empty_input()
    bind_narrow(narrow, target)()
    plain = prepare_conv2d(replace(spec, element="fp32"), sample(spec)[1], algorithm="winograd4")
    with pytest.raises(KernelError, match="the output: a blocked map is a float32 array"):
        plain.bind(narrow, Blocked.empty(*spec.output_shape, kind=np.uint16))


@pytest.mark.parametrize("half", HALVES)
def test_direct_convolution_is_chosen_more_often_where_one_instruction_multiplies_16_bits(
    half: Half, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = replace(ConvSpec(512, 512, 7, 7, (3, 3), (1, 1), P1), element=half)
    large = replace(ConvSpec(256, 256, 56, 56, (3, 3), (1, 1), P1), element=half)
    isa = host_isa()
    monkeypatch.setattr(select, "tuned_algorithm", lambda *_: None)
    in_floats = cheapest(replace(deep, element="fp32"), isa.vector_length, half_rate=half_rate(isa))
    for reads, wanted in ((half, HALF), ("fp32", in_floats)):
        monkeypatch.setattr(select, "reads_of", lambda *_, reads=reads: reads)
        assert select.choose(large, isa, strict=False) == "winograd4"
        assert select.choose(deep, isa, strict=False) == wanted
        assert select.choose(large, isa, strict=True) == HALF


@pytest.mark.parametrize("half", HALVES)
def test_what_was_measured_of_a_precision_is_kept_for_it_alone(
    half: Half, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FOGCONV_CACHE_DIR", str(tmp_path))
    tmp_path.chmod(0o700)
    word = f"16x8x8-16k3x3s1p1-{half}"
    spec = autotune.parse(word)
    assert tuning_table.key(spec) == word and spec.element == half
    found = autotune.tune(spec)
    assert set(found) == set(candidates(spec, host_isa()))
    assert tuning_table.tuned_algorithm(spec, host_isa()) == min(found, key=lambda name: found[name])
    assert tuning_table.tuned_algorithm(replace(spec, element="fp32"), host_isa()) is None
