"""compile: a model on a cluster, called like the model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import fogconv
from fogconv.cluster.session.session import Session
from fogconv.errors import ClusterError, InputError, ModelError
from fogconv.frontend.ports import arrays_of
from fogconv.hardware.topology import Topology
from fogconv.runtime.run_options import RunOptions
from fogconv.zoo.models import load_model
from tests.zoo.test_exported import edited

pytestmark = pytest.mark.alone

TOPOLOGY = Topology.uniform(3, 10e9, 125e6, 1e-4)


def small() -> nn.Module:
    layers = (nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(32, 64, 3, padding=1), nn.ReLU())
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)).eval()


def expected(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return model(x)  # type: ignore[no-any-return]


@pytest.mark.parametrize("scheme", ["auto", "rows", "tiles", "depth", "star"])
def test_compile_gives_what_the_model_gives_in_every_scheme(scheme: str) -> None:
    torch.manual_seed(3)
    model, x = small(), torch.randn(2, 3, 24, 20)
    with fogconv.connect("inproc://2", threads=1) as cluster:
        assert isinstance(cluster, Session)
        # The two workers share one process and its cores: how fast they seem is not what is tested here.
        steady = RunOptions(adapt=False)
        engine = fogconv.compile(model, cluster, example=x, topology=TOPOLOGY, run=steady, scheme=scheme, threshold=0.0)
        y = engine(x)
        assert isinstance(y, torch.Tensor)
        torch.testing.assert_close(y, expected(model, x), rtol=1e-4, atol=1e-5)
        array = engine(x.numpy())
        assert isinstance(array, np.ndarray)
        np.testing.assert_array_equal(array, y.numpy())
        run = engine.run(x)
        assert run.latency_s > 0
        assert engine.plan.plan.scheme == scheme
        assert engine.events == ()


def test_compile_streams_in_order_and_returns_what_it_was_given() -> None:
    torch.manual_seed(4)
    model = small()
    frames = [torch.randn(1, 3, 24, 24) for _ in range(5)]
    mixed = [frame if number % 2 else frame.numpy() for number, frame in enumerate(frames)]
    with fogconv.compile(model, "inproc://2", example=frames[0], topology=TOPOLOGY, scheme="rows") as engine:
        for number, y in enumerate(engine.stream(mixed)):
            assert isinstance(y, torch.Tensor if number % 2 else np.ndarray)
            torch.testing.assert_close(torch.as_tensor(y), expected(model, frames[number]), rtol=1e-4, atol=1e-5)
        timeline = engine.simulate(inferences=2)
        assert len(timeline.latencies_s) == 2


def test_compile_takes_options_or_keywords_and_says_what_is_wrong_with_an_input() -> None:
    model, x = small(), torch.zeros(1, 3, 24, 24)
    with pytest.raises(TypeError, match="not both"):
        fogconv.compile(model, "inproc://1", example=x, options=fogconv.PlanOptions(), scheme="rows")
    with pytest.raises(InputError, match="needs an example"):
        fogconv.compile(model, "inproc://1")
    with pytest.raises(InputError, match="not a model"):
        fogconv.compile(42, "inproc://1")
    with pytest.raises(InputError, match=r"\(N, C, H, W\)"):
        fogconv.compile(model, "inproc://1", example=np.zeros((3, 24, 24)))
    with pytest.raises(ModelError):
        fogconv.compile("resnet5000", "inproc://1")
    pair = TOPOLOGY.subset([0, 1])
    wrong_shape = pytest.raises(InputError, match=r"\(1, 3, 8, 8\).*\(1, 3, 24, 24\)")
    with fogconv.compile(model, "inproc://1", example=x, topology=pair) as engine, wrong_shape:
        engine(torch.zeros(1, 3, 8, 8))


def test_plan_needs_no_cluster_and_shows_itself(tmp_path: Path) -> None:
    planned = fogconv.plan("resnet18", TOPOLOGY, size=64, scheme="rows")
    for width in (80, 120):
        assert all(len(line) <= width for line in planned.table(width).splitlines())
    assert planned.table().startswith("resnet18 on 3 ranks, scheme rows, fp32 on the wire\npredicted: ")
    assert "layer2.0.downsample.0" in planned.table(100)
    planned.plot(tmp_path / "plan.png")
    assert (tmp_path / "plan.png").stat().st_size > 1000
    planned.save(tmp_path / "plan.json")
    assert planned.simulate(inferences=1).total_s > 0
    assert planned.listing(1).startswith("rank 1 of 3")
    same = fogconv.plan(load_model("resnet18", weights="random", size=64), TOPOLOGY, scheme="rows")
    assert same.plan.placements == planned.plan.placements


def test_a_file_that_would_run_code_is_refused_unless_trusted(tmp_path: Path) -> None:
    path, x = tmp_path / "small.pt2", torch.zeros(1, 3, 24, 20)
    torch.export.save(torch.export.export(small(), (x,), strict=False), path)
    plain = fogconv.plan(str(path), TOPOLOGY)
    edited(path, lambda entries: entries.update({"data/unknown": b"?"}))
    with pytest.raises(ModelError, match=r"trust=True"):
        fogconv.plan(path, TOPOLOGY)
    with pytest.raises(ModelError, match=r"trust=True"):
        fogconv.compile(path, "inproc://1")
    assert fogconv.plan(path, TOPOLOGY, trust=True).plan == plain.plan
    with fogconv.compile(path, "inproc://1", trust=True, topology=Topology.uniform(2, 10e9, 125e6)) as engine:
        assert engine(x).shape == (1, 10)


def test_a_closed_model_refuses_runs_and_keeps_its_plan() -> None:
    """A run after the end took the closed session's workers for lost, and planned for the master alone."""
    engine = fogconv.compile(small(), "inproc://1", example=torch.zeros(1, 3, 24, 24), topology=TOPOLOGY.subset((0, 1)))
    table = engine.plan.table()
    engine.close()
    for _ in range(2):
        with pytest.raises(ClusterError, match="closed"):
            engine(torch.zeros(1, 3, 24, 24))
        with pytest.raises(ClusterError, match="closed"):
            list(engine.stream([torch.zeros(1, 3, 24, 24)]))
    assert engine.plan.table() == table and engine.events == ()


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: fogconv.connect(None), "names no workers"),  # type: ignore[arg-type]
        (lambda: fogconv.connect(3), "names no workers"),  # type: ignore[arg-type]
        (lambda: fogconv.plan(small(), None, example=torch.zeros(1, 3, 24, 24)), "Topology"),  # type: ignore[arg-type]
        (lambda: fogconv.plan(small(), "inproc://1", example=torch.zeros(1, 3, 24, 24)), "Topology"),  # type: ignore[arg-type]
        (lambda: fogconv.plan(small(), TOPOLOGY, example=torch.zeros(1, 3, 24, 24)).plot("a.xyz"), "^a.xyz: "),
        (lambda: fogconv.plan(object(), TOPOLOGY), "^object is not a model"),  # type: ignore[arg-type]
    ],
    ids=["no cluster", "a number", "no topology", "an address", "a picture's suffix", "no model"],
)
def test_what_is_no_such_thing_is_a_sentence(call: Callable[[], object], says: str) -> None:
    with pytest.raises(InputError, match=says):
        call()


@pytest.mark.parametrize("given", ["x", object(), [["a"]], torch.zeros(1, 3, 24, 24, dtype=torch.complex64)])
def test_an_input_that_is_no_array_of_numbers_is_a_sentence(given: object) -> None:
    planned = fogconv.plan(small(), TOPOLOGY, example=torch.zeros(1, 3, 24, 24))
    with pytest.raises(InputError, match=r"the input '.*' must be an array of real numbers"):
        arrays_of(planned.graph, given)
