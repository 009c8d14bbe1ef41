"""The bench of auto's decisions: clusters, random paths, and what is made of their times."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bench.decisions import (
    AGAIN,
    NETS,
    NOISE,
    Noise,
    cheapest_first,
    cluster,
    cost_s,
    drawn,
    judged,
    kept,
    line,
    noise_of,
    outcome,
    verdict,
)
from bench.fog.contestants import contestants, random_path
from fogconv.errors import InputError
from fogconv.hardware.topology import Topology
from fogconv.lowering.lower import lower
from fogconv.planning.schemes import ONE_FRAME, Scheme
from tests import program_reference
from tests.chains import chain

pytestmark = pytest.mark.alone

FOUR = Topology.uniform(4, 1e10, 1e8, 1e-4)


def test_clusters_are_the_same_every_time_and_differ() -> None:
    assert cluster(3) == cluster(3)
    found = [cluster(number) for number in range(20)]
    assert {net for net, _ in found} <= set(NETS)
    assert len({len(topology) for _, topology in found}) > 2


def test_the_judge_has_other_rates_within_the_noise() -> None:
    _, topology = cluster(1)
    assert judged(topology, 1, Noise(0.0, 0.0, 0.0)).devices[1].gamma() == pytest.approx(topology.devices[1].gamma())
    other = judged(topology, 1, NOISE)
    assert other == judged(topology, 1, NOISE) != topology
    assert other.devices[0].gamma() == pytest.approx(topology.devices[0].gamma(), rel=0.5)


def test_contestants_are_every_scheme_and_other_paths() -> None:
    graph = chain(16, 64, 64, 32, 64)
    found = contestants(graph, FOUR, 1, paths=5)
    names = [name for name, _ in found]
    schemes = [*ONE_FRAME, Scheme.LOCAL]
    assert names[: len(schemes)] == schemes and names[0] == "auto"
    assert names[len(schemes) :] == [f"path {number}" for number in range(1, 6)]
    works = [tuple(each.work for each in plan.placements) for _, plan in found]
    assert all(works.count(each) == 1 for each in works[len(schemes) :])
    assert all(plan.predicted_s for _, plan in found)


def test_random_paths_compute_the_network() -> None:
    graph = chain(3, 32, 48, 16, residual=False, size=16)
    chance = np.random.default_rng(0)
    weights = {key: chance.standard_normal(value.shape, np.float32) for key, value in graph.weights.items()}
    graph = replace(graph, weights=weights)
    x = chance.standard_normal((1, 3, 16, 16), np.float32)
    outputs = []
    for seed in range(6):
        lowered = lower(graph, random_path(graph, FOUR, random.Random(seed)))
        outputs.append(program_reference.run(lowered.programs, lowered.weights, x))
    for other in outputs[1:]:
        np.testing.assert_allclose(other, outputs[0], rtol=1e-9, atol=1e-6)


def test_the_loss_is_against_the_best_plan(tmp_path: Path) -> None:
    one = outcome("simulated 0", "vgg16", 3, [("auto", 1.0, 1.1), ("rows", 1.2, 1.0), ("path 1", 3.0, 2.0)])
    two = outcome("simulated 1", "vgg16", 3, [("auto", 1.0, 1.0), ("rows", 1.2, 1.0), ("path 1", 3.0, 2.0)])
    assert one["loss"] == pytest.approx(0.1) and one["best"] == "rows"
    assert two["loss"] == 0.0
    found = verdict([one, two])
    assert found["simulated"]["mean_loss"] == pytest.approx(0.05)
    assert found["simulated"]["worst_loss"] == pytest.approx(0.1)
    file = tmp_path / "x.json"
    file.write_text(json.dumps({"clusters": [one, two]}))
    assert kept(file) == [one, two]
    file.write_text("[1]")
    with pytest.raises(InputError, match="not a result"):
        kept(file)


def test_of_a_measured_cluster_only_the_turns_count_and_two_copies_show_the_noise() -> None:
    once = [("auto", 1.0, 1.3), ("rows", 1.2, 0.5), ("path 1", 3.0, 1.2), ("depth", 3.0, 9.0)]
    turns = {"auto": [1.0, 1.02, 1.04], "rows": [1.0, 1.0, 1.0], "path 1": [2.0, 2.0, 2.0], AGAIN: [1.06, 1.07, 1.08]}
    found = outcome("measured 3", "resnet18", 3, once, turns)
    assert found["noise"] == pytest.approx(1.07 / 1.02 - 1, rel=0.05)
    assert found["best"] == "rows" and found["loss"] == pytest.approx(0.05)
    assert [each["taken_s"] for each in found["plans"]] == [1.3, 0.5, 1.2, 9.0]
    shown = verdict([found])["measured"]
    assert shown["losses_within_their_noise"] == int(found["loss"] <= found["noise"])
    assert shown["mean_loss_beyond_noise"] == pytest.approx(max(0.0, found["loss"] - found["noise"]))
    assert "two copies of auto's plan: 4.7%" in line(found)


def test_cheap_clusters_come_first() -> None:
    order = cheapest_first(range(12))
    assert sorted(order) == list(range(12))
    assert [cost_s(number) for number in order] == sorted(cost_s(number) for number in order)
    assert drawn(order[0]).net in ("squeezenet1_1", "mobilenet_v2") and drawn(order[-1]).net in ("resnet18", "resnet50")


def test_the_noise_is_that_of_rates_that_should_be_alike() -> None:
    def cell(net: str, gamma: float, message: float) -> dict[str, object]:
        return {"net": net, "transport": "zmq", "gamma_s_per_mac": gamma, "message_s": message, "loaded": False}

    same = [cell("a", 1e-10, 1e-3), cell("a", 1e-10, 1e-3), cell("b", 5e-10, 1e-3)]
    assert noise_of(same).compute == pytest.approx(0.0)
    assert noise_of([*same, cell("b", 6e-10, 2e-3)]).message > 0.1
    with pytest.raises(InputError, match="no two cells"):
        noise_of(same[:1])
