"""A net of every operator that changes rows and columns, on workers, in every scheme."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

import fogconv
from fogconv.cluster.connect import connect
from fogconv.cluster.session.session import Session
from fogconv.frontend.torch.export import export
from fogconv.hardware.topology import Topology
from fogconv.ir.graph import LayerGraph
from fogconv.ir.layers import Host
from fogconv.planning.plan_options import PlanOptions
from fogconv.runtime.engine import Engine


class Net(nn.Module):
    """A U-net with a focus, whose ways down and up use what there is."""

    def __init__(self) -> None:
        super().__init__()
        self.focus = nn.Conv2d(12, 24, 3, padding=1)
        self.down = nn.Conv2d(24, 40, 3, 2, padding=1, padding_mode="reflect")
        self.up = nn.ConvTranspose2d(40, 24, 3, 2, 1, 1)
        self.norm = nn.BatchNorm2d(24)
        self.finer = nn.ConvTranspose2d(24, 24, 4, 2, 1, groups=24)
        self.mix = nn.Conv2d(24, 20, 1)
        self.last = nn.ConvTranspose2d(20, 3, 2, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = [x[..., ::2, ::2], x[..., 1::2, ::2], x[..., ::2, 1::2], x[..., 1::2, 1::2]]
        fine = F.relu(self.focus(torch.cat(parts, 1)))
        coarse = F.silu(self.down(fine))
        up = F.relu(self.norm(self.up(coarse))) + F.interpolate(fine, scale_factor=2.0)[:, :, ::2, 1::2]
        up = F.interpolate(up, size=(20, 25), mode="bilinear", align_corners=False)
        up = F.pixel_unshuffle(self.finer(F.pad(up, (1, 0, 2, 1), "replicate")), 2)
        mixed = self.mix(F.pixel_shuffle(F.max_pool2d(F.pad(up, (1, 1, 0, 1), value=-torch.inf), 3), 2))
        return self.last(mixed) * mixed.amax((2, 3), keepdim=True)[:, :3].sigmoid()


@pytest.fixture(scope="module")
def net() -> tuple[LayerGraph, np.ndarray, np.ndarray]:
    torch.manual_seed(0)
    model, x = Net().eval(), torch.randn(2, 3, 44, 36)
    with torch.inference_mode():
        return export(model, x, "net"), x.numpy(), model(x).numpy()


@pytest.fixture(scope="module")
def session() -> Iterator[Session]:
    with connect("inproc://2", threads=1) as session:
        yield session


@pytest.mark.parametrize("scheme", ["auto", "depth", "rows", "columns", "tiles", "star", "local"])
def test_a_net_of_operators_that_change_space_is_torchs(
    scheme: str, net: tuple[LayerGraph, np.ndarray, np.ndarray], session: Session
) -> None:
    graph, x, expected = net
    assert not [layer for layer in graph.layers if isinstance(layer, Host)]
    # A network so fast that layers are distributed, which on one machine they would not be.
    topology = Topology.uniform(3, 10e9, 1e11, 1e-7, copy_s_per_byte=1e-12, step_s=1e-8)
    engine = Engine(graph, session, topology, PlanOptions(scheme, threshold=0.0))
    output = engine.run(x).output
    split = {
        layer.kind
        for layer, placement in zip(graph.layers, engine.plan.placements, strict=True)
        if len({work.rank for work in placement.work}) == 3
    }
    engine.close()
    np.testing.assert_allclose(output, expected, rtol=1e-4, atol=1e-4 * float(np.abs(expected).max()))
    if scheme in ("auto", "depth", "rows", "columns", "tiles"):
        assert {"resample", "interleave", "conv"} <= split


def test_a_net_on_sequences_is_torchs() -> None:
    torch.manual_seed(1)
    parts = (nn.Conv1d(4, 48, 5, 2), nn.ReLU(), nn.MaxPool1d(2), nn.ConvTranspose1d(48, 40, 4, 2), nn.Conv1d(40, 3, 1))
    model, x = nn.Sequential(*parts).eval(), torch.randn(2, 4, 101)
    topology = Topology.uniform(3, 10e9, 1e11, 1e-7, copy_s_per_byte=1e-12, step_s=1e-8)
    with fogconv.compile(model, "inproc://2", example=x, topology=topology, threshold=0.0) as engine:
        output = engine(x)
    with torch.inference_mode():
        expected = model(x).numpy()
    assert output.shape == expected.shape
    np.testing.assert_allclose(output, expected, rtol=1e-4, atol=1e-5)
