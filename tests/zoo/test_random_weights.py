"""Seeded weights are good witnesses: no conv can go wrong unnoticed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from fogconv.zoo.models import classifier_names, load_model
from fogconv.zoo.preprocessing import load_image
from fogconv.zoo.random_weights import seed_weights, settle_batch_norm
from tests.graph_reference import run_graph
from tests.seeded_models import ALL_MODELS, graph, photograph, small

LEAST_ERROR_SEEN = 1e-4
"""`tests.matrix` and the benches allow so much of the largest value; zeroing a conv moves the output by ten times that."""


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
    assert min(shifts.values()) > 10 * LEAST_ERROR_SEEN, min(shifts, key=lambda conv: shifts[conv])


@pytest.mark.full
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", ALL_MODELS)
def test_zeroing_any_conv_of_any_test_model_moves_the_output(name: str) -> None:
    shifts = moves(name, small(name))
    assert min(shifts.values()) > 10 * LEAST_ERROR_SEEN, min(shifts, key=lambda conv: shifts[conv])


def own_error(name: str) -> float:
    """torch's float32 error against its own float64, in units of the largest value, on a photograph of the usual size."""
    zoo = load_model(name, weights="random")
    image = torch.from_numpy(zoo.preprocess(load_image("coffee"))[None])
    with torch.inference_mode():
        single = zoo.module(image)
        double = zoo.module.double()(image.double())
    return float((single - double).abs().max() / double.abs().max())


WORST_ONCE = ("efficientnet_b3", "regnet_y_1_6gf")
"""3e-3 and 1e-3 before batch norms shifted (efficientnet_v2_s: 0.17)."""


@pytest.mark.parametrize("name", [*WORST_ONCE, "mobilenet_v2"])
def test_rounding_errors_do_not_grow(name: str) -> None:
    assert own_error(name) <= 1e-5


@pytest.mark.full
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", classifier_names())
def test_rounding_errors_do_not_grow_in_any_model_of_the_zoo(name: str) -> None:
    assert own_error(name) <= 1e-5


def test_the_number_of_threads_does_not_change_the_weights() -> None:
    before = torch.get_num_threads()
    states = []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            states.append(load_model("mobilenet_v2", weights="random").module.state_dict())
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    for other in states[1:]:
        assert all(torch.equal(a, b) for a, b in zip(states[0].values(), other.values(), strict=True))


def test_a_channel_that_hardly_varies_is_not_stretched_without_bounds() -> None:
    norm = nn.BatchNorm2d(3).eval()
    images = torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    images[:, 1] *= 1e-6
    settle_batch_norm(norm, images)
    assert float(norm.running_var[1]) > 0.01


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
