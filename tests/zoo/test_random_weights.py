"""Seeded weights are good witnesses: no conv can go wrong unnoticed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from fogconv.zoo.random_weights import seed_weights, settle_batch_norm
from tests.graph_reference import run_graph
from tests.seeded_models import ALL_MODELS, graph, photograph, small


def moves(name: str, size: int) -> dict[str, float]:
    """How far zeroing each conv moves the output, in units of the largest output."""
    whole = graph(name, size)
    image = photograph(name, size)
    output = run_graph(whole, image)
    return {
        conv.name: float(np.abs(run_graph(whole, image, without=conv.name) - output).max() / np.abs(output).max())
        for conv in whole.convs
    }


@pytest.mark.parametrize("name", ["resnet18", "shufflenet_v2_x0_5", "mobilenet_v3_small"])
def test_zeroing_any_conv_moves_the_output(name: str) -> None:
    shifts = moves(name, small(name))
    assert min(shifts.values()) > 1e-3, min(shifts, key=lambda conv: shifts[conv])


@pytest.mark.full
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", ALL_MODELS)
def test_zeroing_any_conv_of_any_test_model_moves_the_output(name: str) -> None:
    shifts = moves(name, small(name))
    assert min(shifts.values()) > 1e-3, min(shifts, key=lambda conv: shifts[conv])


def test_the_same_seed_gives_the_same_weights() -> None:
    one, two, three = (
        nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(72, 5)) for _ in range(3)
    )
    seed_weights(one, (5, 5), seed=1)
    seed_weights(two, (5, 5), seed=1)
    seed_weights(three, (5, 5), seed=2)
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))
    assert not torch.equal(one[0].weight, three[0].weight)


def test_batch_norm_gets_the_statistics_of_the_batch_and_keeps_its_settings() -> None:
    norm = nn.BatchNorm2d(2, momentum=0.3).eval()
    images = torch.randn(4, 2, 6, 6) * 3 + 1
    settle_batch_norm(norm, images)
    assert torch.allclose(norm.running_mean, images.mean((0, 2, 3)), atol=1e-5)
    assert torch.allclose(norm.running_var, images.var((0, 2, 3)), rtol=1e-4)
    assert norm.momentum == 0.3
    assert not norm.training
