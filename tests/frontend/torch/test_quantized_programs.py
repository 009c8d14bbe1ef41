"""Programs with torchao's conversions (pt2e), as `.pt2` files: on bytes, and what torch itself computes of the same file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.ao.quantization.fx._decomposed  # the operations
from torch import Tensor, nn

from fogconv.frontend.network import open_network
from fogconv.ir.layers import Conv, Convert
from fogconv.quantization.precision import is_quantized
from fogconv.quantization.recorder import Recorder
from fogconv.zoo.model_request import ModelRequest

OPS = torch.ops.quantized_decomposed
INT8, UINT8 = (-128, 127, torch.int8), (0, 255, torch.uint8)


def through_bytes(x: Tensor, scale: float, zero: int, kind: tuple[int, int, torch.dtype]) -> Tensor:
    q = OPS.quantize_per_tensor.default(x, scale, zero, *kind)
    return OPS.dequantize_per_tensor.default(q, scale, zero, *kind)  # type: ignore[no-any-return]


class Quantized(nn.Module):
    """As pt2e writes it: weights of int8 with a scale per channel, or one; maps of either type around each operator."""

    def __init__(self, kind: tuple[int, int, torch.dtype]) -> None:
        super().__init__()
        self.kind = kind
        draw = np.random.default_rng(0)
        for name, shape in {"a": (16, 3, 3, 3), "b": (16, 1, 3, 3), "c": (16, 16, 1, 1), "d": (10, 16)}.items():
            values = draw.integers(-127, 128, shape).astype(np.int8)
            self.register_buffer(f"{name}_values", torch.from_numpy(values))
            scales = draw.uniform(0.5, 1.0, shape[0]) * 0.02 / np.sqrt(np.prod(shape[1:]))
            self.register_buffer(f"{name}_scales", torch.from_numpy(scales.astype(np.float32)))
            self.register_buffer(f"{name}_zeros", torch.zeros(shape[0], dtype=torch.int64))
            self.register_buffer(f"{name}_bias", torch.from_numpy(draw.normal(size=shape[0]).astype(np.float32)))

    def weight(self, name: str) -> Tensor:
        values, scales, zeros = (getattr(self, f"{name}_{part}") for part in ("values", "scales", "zeros"))
        if name == "c":
            return OPS.dequantize_per_tensor.default(values, 0.004, 0, -127, 127, torch.int8)  # type: ignore[no-any-return]
        return OPS.dequantize_per_channel.default(values, scales, zeros, 0, -127, 127, torch.int8)  # type: ignore[no-any-return]

    def forward(self, x: Tensor) -> Tensor:
        least = self.kind[0]
        x = through_bytes(x, 0.03, 128 + least, self.kind)
        x = torch.relu(nn.functional.conv2d(x, self.weight("a"), self.a_bias, padding=1))
        y = through_bytes(x, 0.025, least, self.kind)
        x = nn.functional.hardtanh(nn.functional.conv2d(y, self.weight("b"), self.b_bias, padding=1, groups=16), 0.0, 6.0)
        x = through_bytes(x, 6 / 255, least, self.kind)
        x = through_bytes(nn.functional.conv2d(x, self.weight("c"), self.c_bias), 0.03, 128 + least, self.kind)
        x = through_bytes(torch.relu(x + y), 0.03, least, self.kind)
        x = through_bytes(nn.functional.adaptive_avg_pool2d(x, 1), 0.02, least, self.kind)
        return nn.functional.linear(torch.flatten(x, 1), self.weight("d"), self.d_bias)


@pytest.mark.parametrize("kind", [INT8, UINT8], ids=["int8", "uint8"])
def test_a_file_runs_on_bytes_and_gives_what_torch_gives(kind: tuple[int, int, torch.dtype], tmp_path: Path) -> None:
    model, x = Quantized(kind), torch.from_numpy(np.random.default_rng(1).normal(size=(1, 3, 12, 12)).astype(np.float32))
    path = tmp_path / "net.pt2"
    torch.export.save(torch.export.export(model, (x,)), path)
    graph = open_network(ModelRequest(str(path))).graph
    assert is_quantized(graph)
    convs = [layer for layer in graph.layers if isinstance(layer, Conv)]
    assert len(convs) == 4 and all(layer.spec.element == "uint8" for layer in convs)
    assert sum(isinstance(layer, Convert) for layer in graph.layers) == 1, "the picture's"
    [number] = graph.results
    found = Recorder(graph, [number]).of([x.numpy()])[number].reshape(-1)
    with torch.no_grad():
        exact = torch.export.load(path).module()(x).numpy().reshape(-1)
    # A sum that lies between two steps may be rounded to either: torch adds in fp32.
    assert np.abs(found - exact).max() <= 0.02 * np.abs(exact).max()


def test_a_narrower_range_of_bytes_stays_with_torch(tmp_path: Path) -> None:
    narrow = (0, 127, torch.uint8)
    model, x = Quantized(narrow), torch.zeros(1, 3, 12, 12)
    path = tmp_path / "net.pt2"
    torch.export.save(torch.export.export(model, (x,)), path)
    graph = open_network(ModelRequest(str(path))).graph
    assert not is_quantized(graph) and graph.hosted


def test_torchao_itself(tmp_path: Path) -> None:
    """A model that torchao quantised."""
    pytest.importorskip("torchao", reason="torchao is not installed: programs built by hand stand for its own above")
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.quantization.pt2e.quantizer.x86_inductor_quantizer import (
        X86InductorQuantizer,
        get_default_x86_inductor_quantization_config,
    )

    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU()).eval()
    x = torch.randn(1, 3, 12, 12)
    quantizer = X86InductorQuantizer().set_global(get_default_x86_inductor_quantization_config())
    prepared = prepare_pt2e(torch.export.export(model, (x,)).module(), quantizer)
    prepared(x)
    path = tmp_path / "net.pt2"
    torch.export.save(torch.export.export(convert_pt2e(prepared), (x,)), path)
    graph = open_network(ModelRequest(str(path))).graph
    assert is_quantized(graph)
    [number] = graph.results
    found = Recorder(graph, [number]).of([x.numpy()])[number]
    with torch.no_grad():
        exact = torch.export.load(path).module()(x).numpy()
    assert np.abs(found - exact).max() <= 0.02 * np.abs(exact).max()
