"""Rules of operators that change rows and columns, against torch, over their modes and many sizes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fogconv.frontend.torch.export import export
from fogconv.ir.layers import Conv, Host, Pool
from tests.frontend.torch.test_rules import Calls, exported, kinds
from tests.graph_reference import run_graph

MODES = ("nearest", "nearest-exact", "bilinear", "bicubic")


def one_layer(function: Any, size: tuple[int, int]) -> None:
    """One layer of workers, in float64 and in float32, in which torch computes positions, too."""
    graph = exported(function, shape=(2, 3, *size))
    assert kinds(graph) in (["Resample"], [])
    x = torch.randn(2, 3, *size)
    with torch.no_grad():
        expected = function(x).numpy()
    graph = export(Calls(function).eval(), x, "small")
    np.testing.assert_allclose(run_graph(graph, x.numpy()), expected, rtol=2e-5, atol=2e-5)


@settings(deadline=None, max_examples=25)
@given(
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.tuples(st.integers(1, 70), st.integers(1, 70)),
    st.sampled_from(MODES),
    st.booleans(),
)
def test_interpolation_to_any_size_is_torchs(
    size: tuple[int, int], target: tuple[int, int], mode: str, corners: bool
) -> None:
    more = {"align_corners": corners} if mode.startswith("bi") else {}
    one_layer(lambda x: F.interpolate(x, size=target, mode=mode, **more), size)


@settings(deadline=None, max_examples=25)
@given(
    st.tuples(st.integers(2, 40), st.integers(2, 40)),
    st.tuples(st.floats(0.5, 3), st.floats(0.5, 3)),
    st.sampled_from(MODES),
    st.booleans(),
    st.booleans(),
)
def test_interpolation_by_any_factor_is_torchs(
    size: tuple[int, int], factors: tuple[float, float], mode: str, corners: bool, recomputed: bool
) -> None:
    if mode == "nearest" and any(int(n * f) in (n, 2 * n) and f not in (1, 2) for n, f in zip(size, factors, strict=True)):
        return  # torch's own kernels differ here: some count by the factor, some by the whole number near it
    more: dict[str, Any] = {"align_corners": corners} if mode.startswith("bi") else {}
    more["recompute_scale_factor"] = recomputed or None
    one_layer(lambda x: F.interpolate(x, scale_factor=factors, mode=mode, **more), size)


@settings(deadline=None, max_examples=30)
@given(st.data())
def test_a_transposed_conv_is_torchs(data: st.DataObject) -> None:
    def two(least: int, most: int) -> tuple[int, int]:
        return (data.draw(st.integers(least, most)), data.draw(st.integers(least, most)))

    kernel, stride, dilation = two(1, 5), two(1, 3), two(1, 2)
    padding = tuple(data.draw(st.integers(0, (k - 1) * d)) for k, d in zip(kernel, dilation, strict=True))
    more = tuple(data.draw(st.integers(0, max(s, d) - 1)) for s, d in zip(stride, dilation, strict=True))
    groups = data.draw(st.sampled_from([1, 1, 2, 6]))
    bias = data.draw(st.booleans())
    filters = 6 * data.draw(st.integers(1, 3))
    layer = nn.ConvTranspose2d(6, filters, kernel, stride, padding, more, groups, bias, dilation)  # type: ignore[arg-type]
    height, width = two(3, 7)
    try:
        made = layer(torch.zeros(1, 6, height, width)).numel()
    except RuntimeError:
        made = 0
    if not made:
        return  # the padding leaves nothing: torch refuses it, or not, depending on the kernel
    graph = exported(nn.Sequential(layer, nn.ReLU()), shape=(2, 6, height, width))
    assert not [each for each in graph.layers if isinstance(each, Host)]
    assert {each.activation for each in graph.layers if isinstance(each, Conv)} == {"relu"}


@pytest.mark.parametrize("mode", ["constant", "reflect", "replicate", "circular"])
@pytest.mark.parametrize("pads", [(2, 0, 1, 3), (3, 1), (-1, 2, -2, 0)])
def test_every_kind_of_padding(mode: str, pads: tuple[int, ...]) -> None:
    if mode != "constant" and (min(pads) < 0 or len(pads) < 4):
        return
    value = 1.5 if mode == "constant" else None
    assert kinds(exported(lambda x: F.pad(x, pads, mode, value))) == ["Resample"]


def test_a_pad_before_a_pool_is_the_pools_where_that_is_the_same() -> None:
    for fill, pool, expected in (
        (-torch.inf, lambda x: F.max_pool2d(x, 3, 2), ["Pool"]),
        (0.0, lambda x: F.max_pool2d(x, 3, 2), ["Resample", "Pool"]),
        (0.0, lambda x: F.avg_pool2d(x, 3, 2), ["Pool"]),
        (0.0, lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False), ["Resample", "Pool"]),
    ):
        assert kinds(exported(lambda x, f=fill, p=pool: p(F.pad(x, (0, 1, 2, 1), value=f)))) == expected


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x[:, :, ::2, 1::2],
        lambda x: x[:, 1:4, 2:-1],
        lambda x: x.flip(3),
        lambda x: x.flip((2, -1)),
        lambda x: torch.cat([x[..., ::2, ::2], x[..., 1::2, ::2], x[..., ::2, 1::2], x[..., 1::2, 1::2]], 1),
    ],
)
def test_slices_with_steps_and_flips(function: Any) -> None:
    assert not [layer for layer in exported(function).layers if isinstance(layer, Host)]


@pytest.mark.parametrize("function", [lambda x: x.amax((2, 3)), lambda x: F.adaptive_max_pool2d(x, 1)])
def test_a_global_maximum_is_taken_along_the_columns_first(function: Any) -> None:
    graph = exported(function)
    assert [layer.spec.kernel for layer in graph.layers if isinstance(layer, Pool)] == [(1, 10), (12, 1)]


def test_pixels_are_shuffled_and_back() -> None:
    conv = nn.Conv2d(6, 12, 3, padding=1)
    graph = exported(lambda x, c: F.pixel_unshuffle(F.pixel_shuffle(c(x), 2), 2), conv)
    assert not [layer for layer in graph.layers if isinstance(layer, Host)]


SEQUENCES: dict[str, tuple[nn.Module, int]] = {
    "a conv with its padding": (nn.Sequential(nn.Conv1d(6, 8, 3, 2, 1), nn.BatchNorm1d(8), nn.ReLU()), 1),
    "a grouped conv that keeps the length": (nn.Conv1d(6, 12, 4, padding="same", dilation=2, groups=3), 1),
    "zeros before a conv": (nn.Sequential(nn.ConstantPad1d((2, 0), 0.0), nn.Conv1d(6, 4, 3)), 1),
    "a reflection before a conv": (nn.Conv1d(6, 4, 3, padding=1, padding_mode="reflect"), 2),
    "a transposed conv": (nn.ConvTranspose1d(6, 4, 3, 2, 1, 1), 4),  # one conv, a slice for each phase
    "a max pool": (nn.MaxPool1d(3, 2, 1), 1),
    "an average pool": (nn.AvgPool1d(3, 2), 1),
    "the mean": (nn.AdaptiveAvgPool1d(1), 1),
    "the nearest": (nn.Upsample(scale_factor=2.5), 1),
    "between neighbours": (nn.Upsample(size=40, mode="linear"), 1),
}


@pytest.mark.parametrize("name", SEQUENCES)
def test_sequences_are_maps_of_one_row(name: str) -> None:
    module, layers = SEQUENCES[name]
    graph = exported(module, shape=(2, 6, 25))
    assert not [layer for layer in graph.layers if isinstance(layer, Host)]
    assert len(graph.layers) == layers
    assert {tensor.height for tensor in graph.tensors} == {1}


def test_a_sequence_in_the_middle_of_a_net_is_a_map() -> None:
    """Efficient channel attention: a conv along the channels' means."""
    attention = nn.Conv1d(1, 1, 3, padding=1, bias=False)
    graph = exported(lambda x, c: x * c(x.mean((2, 3)).unsqueeze(1)).sigmoid().transpose(1, 2).unsqueeze(-1), attention)
    assert "Conv" in kinds(graph)


@pytest.mark.parametrize(
    ("phases", "stride", "expected"),
    [
        ([(0, 0), (1, 0), (0, 1), (1, 1)], 1, ["Conv"]),
        ([(1, 1), (0, 1), (1, 1)], 2, ["Conv"]),
        ([(0, 0), (0, 0)], 1, ["Conv"]),
    ],
)
def test_a_conv_of_phases_is_a_conv_of_the_map(phases: list[tuple[int, int]], stride: int, expected: list[str]) -> None:
    conv = nn.Conv2d(6 * len(phases), 5, 3, stride, 1)
    graph = exported(lambda x, c: c(torch.cat([x[..., i::2, j::2] for i, j in phases], 1)), conv)
    assert kinds(graph) == expected


def test_a_conv_of_other_slices_reads_their_concatenation() -> None:
    conv = nn.Conv2d(12, 5, 3)
    graph = exported(lambda x, c: c(torch.cat([x[..., ::3, :9:2], x[..., 1::3, 1::2]], 1)), conv, shape=(2, 6, 14, 10))
    assert kinds(graph) == ["Resample", "Resample", "Concat", "Conv"]
