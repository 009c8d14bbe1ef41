"""Layers of equal weights, as zeros are, but of another geometry."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import fogconv
from fogconv.hardware.topology import Topology


@pytest.mark.parametrize(
    "second",
    [{"stride": 2}, {"stride": (1, 2)}, {"dilation": 2}, {"padding": 1}, {}],
    ids=["stride", "columns", "dilation", "padding", "same"],
)
@pytest.mark.parametrize("value", [0.0, 0.01])
def test_layers_with_equal_weights_may_differ_in_all_else(second: dict[str, int], value: float) -> None:
    model = nn.Sequential(
        nn.Conv2d(16, 16, 3, padding=1, stride=(2, 1), bias=False),
        nn.Conv2d(16, 16, 3, bias=False, **second),
        nn.Conv2d(16, 16, 1),
    ).eval()
    for conv in (model[0], model[1]):
        nn.init.constant_(conv.weight, value)
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((1, 16, 16, 16)).astype(np.float32))
    topology = Topology.uniform(3, 2e10, 1.25e8, 1e-4)
    with torch.no_grad():
        expected = model(x)
    for scheme in ("rows", "depth", "local"):
        with fogconv.compile(model, "inproc://2", example=x, topology=topology, scheme=scheme, threshold=0.0) as engine:
            torch.testing.assert_close(engine(x), expected, rtol=1e-4, atol=1e-4)
