"""A layer that spoils the answer stays in fp32, though it is nearly exact by itself, if it has few of the multiply-adds."""

from __future__ import annotations

import numpy as np
import pytest

from fogconv.ir.geometry import ConvSpec
from fogconv.ir.graph import LayerGraph
from fogconv.ir.layers import Conv, Layer, Tensor
from fogconv.quantization.noise import sensitive
from fogconv.quantization.precision import precision_report
from fogconv.quantization.quantize import Quantized, quantized

SIDE, CHANNELS = 16, 32


def network(activation: str) -> LayerGraph:
    """Nearly even maps, with this activation, of which a depthwise conv finds the edges; two convs of many multiply-adds."""
    rng = np.random.default_rng(0)
    edges = rng.standard_normal((CHANNELS, 1, 3, 3)) * 60
    edges -= edges.mean(axis=(2, 3), keepdims=True)
    weights = {
        "even": np.full((CHANNELS, 1, 1, 1), 0.02) * rng.uniform(0.5, 1.0, (CHANNELS, 1, 1, 1)),
        "level": np.full(CHANNELS, 2.0),
        "edges": edges,
        "mixed": rng.standard_normal((CHANNELS, CHANNELS, 3, 3)) / 17,
        "last": rng.standard_normal((CHANNELS, CHANNELS, 3, 3)) / 17,
    }
    tensors = [Tensor("x", 1, 1, SIDE, SIDE)]
    layers: list[Layer] = []

    def conv(weight: str, kernel: int, groups: int, bias: str | None, bounded: str | None) -> None:
        read, around = tensors[-1], (kernel // 2,) * 4
        spec = ConvSpec(read.channels, CHANNELS, SIDE, SIDE, (kernel,) * 2, (1, 1), around, (1, 1), groups)
        layers.append(Conv(weight, len(tensors) - 1, len(tensors), spec, weight, bias, bounded))
        tensors.append(Tensor(weight, 1, CHANNELS, SIDE, SIDE))

    conv("even", 1, 1, "level", activation)
    conv("edges", 3, CHANNELS, None, "relu6")
    conv("mixed", 3, 1, None, "relu")
    conv("last", 3, 1, None, None)
    kept = {key: np.asarray(each, np.float32) for key, each in weights.items()}
    return LayerGraph.single("edges", tuple(tensors), tuple(layers), 0, len(tensors) - 1, tensors[-1].region.shape, kept)


def found(activation: str = "relu", tolerance: float = 0.3) -> Quantized:
    pictures = [[np.random.default_rng(seed).standard_normal((1, 1, SIDE, SIDE), np.float32)] for seed in range(3)]
    return quantized(network(activation), pictures, tolerance=tolerance)


def exact(of: Quantized) -> set[str]:
    return {layer.name for layer in of.layers if layer.precision == "fp32"}


def test_the_layer_that_spoils_the_answer_stays_in_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = found()
    assert exact(kept) == {"edges"} and kept.share >= 1 - sensitive.MOST_EXACT
    monkeypatch.setattr(sensitive, "MOST_EXACT", 0.0)
    assert not exact(found()) and found().noise > 2 * kept.noise


def test_a_conv_that_ends_at_6_stays_with_its_reader() -> None:
    """Its sums can't leave the bytes with that bound: what is said of it is what it does."""
    kept = found("relu6")
    assert exact(kept) == {"even", "edges"}
    report = precision_report(kept.graph)
    assert report is not None and {name for name, each in report.layers.items() if each == "fp32"} == exact(kept)


def test_a_tolerance_that_the_answer_keeps_leaves_all_on_bytes() -> None:
    assert not exact(found(tolerance=100.0))
