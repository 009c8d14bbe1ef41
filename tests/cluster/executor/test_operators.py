"""Operators between convolutions on a cluster, by the real kernels, in every scheme: torch's output."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

import fogconv
from fogconv.frontend.torch.export import export
from fogconv.hardware.topology import Topology
from fogconv.ir.graph import LayerGraph
from fogconv.ir.layers import AcrossChannels, Host
from tests.graph_reference import run_graph

FAST = Topology.uniform(3, 10e9, 1e11, 1e-7, copy_s_per_byte=1e-12, step_s=1e-8)
"""A network so fast that layers are distributed, which on one machine they would not be."""


class Net(nn.Module):
    """Norms, operators across channels, and maps combined with maps and constants of fewer channels, rows and columns."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.other = nn.Conv2d(3, 40, 3, 2, 1), nn.Conv2d(40, 36, 3, 1, 1)
        self.slopes, self.groups, self.instances = nn.PReLU(40), nn.GroupNorm(3, 36), nn.InstanceNorm2d(36, affine=True)
        self.whole = nn.LayerNorm((36, 19, 15))
        self.last = nn.Conv2d(36, 7, 1)
        self.column = nn.Parameter(torch.randn(19, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.slopes(self.first(x))
        y = F.gelu(self.groups(self.other(torch.minimum(y, y.mean((2, 3), keepdim=True)))))
        y = self.instances(y) * self.column + y[:, 3:4]
        y = y / (2.0 + y.abs()) + F.softmax(y, 1)
        return self.last(self.whole(F.mish(y)))


@pytest.fixture(scope="module")
def graph() -> LayerGraph:
    torch.manual_seed(0)
    model = Net().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * (0.1 if parameter.ndim == 4 else 0.5))
    return export(model, torch.randn(2, 3, 37, 30), "net")


@pytest.mark.parametrize("scheme", ["auto", "star", "depth", "rows", "columns", "tiles", "local"])
def test_every_scheme_computes_what_torch_computes(graph: LayerGraph, scheme: str) -> None:
    assert not [layer for layer in graph.layers if isinstance(layer, Host)]
    x = np.random.default_rng(1).standard_normal((2, 3, 37, 30)).astype(np.float32)
    with fogconv.compile(graph, "inproc://2", topology=FAST, scheme=scheme, threshold=0.0) as engine:
        found = engine(x)
    expected = run_graph(graph, x)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=3e-5 * float(np.abs(expected).max()))


OPERATORS = [("log_softmax", ()), ("layer_norm", (0.1,)), ("lrn", (5.0, 0.5, 0.75, 1.0))]


@pytest.mark.parametrize(("op", "parameters"), OPERATORS)
def test_operators_across_channels_are_shared_by_rows(graph: LayerGraph, op: str, parameters: tuple[float, ...]) -> None:
    layers = tuple(
        replace(each, op=op, parameters=parameters) if isinstance(each, AcrossChannels) else each for each in graph.layers
    )
    changed = replace(graph, layers=layers)
    x = np.random.default_rng(2).standard_normal((2, 3, 37, 30)).astype(np.float32)
    with fogconv.compile(changed, "inproc://2", topology=FAST, scheme="rows", threshold=0.0) as engine:
        found = engine(x)
        placements = engine.plan.plan.placements
    [work] = [p.work for each, p in zip(layers, placements, strict=True) if isinstance(each, AcrossChannels)]
    assert len({each.rank for each in work}) == 3
    expected = run_graph(changed, x)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=3e-5 * float(np.abs(expected).max()))
