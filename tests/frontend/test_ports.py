"""Several inputs and outputs, from the model to what a caller gets, in every scheme."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fogconv
from fogconv.api.model import graph_of
from fogconv.cluster.connect import connect
from fogconv.cluster.session.session import Session
from fogconv.errors import InputError, ModelError
from fogconv.frontend.ports import arrays_of, nested
from fogconv.hardware.topology import Topology
from fogconv.ir.graph import LayerGraph, Port
from fogconv.ir.layers import Host, Tensor

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

SCHEMES = ("auto", "rows", "depth", "star", "local")
FAST_LINKS = Topology.uniform(3, 1e9, 1e11, 1e-7)
"""A cluster on which it pays to share even small layers."""


@pytest.fixture(scope="module")
def session() -> Iterator[Session]:
    with connect("inproc://2") as opened:
        yield opened


class Trunk(nn.Module):
    """A few convs, whose maps ``results`` arranges."""

    def __init__(self, results: Callable[..., Any]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(3, 24, 3, padding=1), nn.Conv2d(24, 40, 3, stride=2, padding=1)
        self.head = nn.Linear(40, 7)
        self.results = results

    def forward(self, x: torch.Tensor) -> Any:
        low = torch.relu(self.first(x))
        high = torch.relu(self.second(low))
        return self.results(x, low, high, self.head(high.mean((2, 3))))


RESULTS: dict[str, Callable[..., Any]] = {
    "one": lambda x, low, high, scores: scores,
    "a map that later layers read": lambda x, low, high, scores: (low, high, scores),
    "a dict": lambda x, low, high, scores: {"high": high, "scores": scores},
    "a dict of one": lambda x, low, high, scores: {"out": high},
    "nested": lambda x, low, high, scores: {"maps": [low, high], "rest": (scores, {"again": scores})},
    "the same twice": lambda x, low, high, scores: (high, high),
    "the input": lambda x, low, high, scores: (x, scores),
    "the input alone, beside work": lambda x, low, high, scores: (scores, x, low.flatten(1)),
    "parts of a map": lambda x, low, high, scores: (high[:, :8], high[:, 8:], torch.cat([high, high], 1)),
    "numbers that are no floats": lambda x, low, high, scores: (scores, scores.argmax(1), high.flatten(2).transpose(1, 2)),
    "nothing for one": lambda x, low, high, scores: (scores, None),
}


def same(found: Any, wanted: Any) -> None:
    """The same structure, of the same kinds and numbers."""
    if isinstance(wanted, dict):
        assert isinstance(found, dict) and list(found) == list(wanted)
        for key in wanted:
            same(found[key], wanted[key])
    elif isinstance(wanted, tuple | list):
        assert isinstance(found, tuple) and len(found) == len(wanted)
        for pair in zip(found, wanted, strict=True):
            same(*pair)
    elif wanted is None:
        assert found is None
    else:
        assert isinstance(found, torch.Tensor) and found.shape == wanted.shape and found.dtype == wanted.dtype
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", RESULTS)
def test_results_are_the_models_in_its_own_structure(name: str, scheme: str, session: Session) -> None:
    module = Trunk(RESULTS[name]).eval()
    x = torch.randn(2, 3, 20, 12, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        wanted = module(x)
    with fogconv.compile(module, session, example=x, topology=FAST_LINKS, scheme=scheme) as engine:
        same(engine(x), wanted)
        arrays = engine(x.numpy())
        assert isinstance(next(iter(engine.run(x).outputs.values())), np.ndarray)
        for streamed in engine.stream([x, x]):
            same(streamed, wanted)
    if isinstance(wanted, torch.Tensor):
        assert isinstance(arrays, np.ndarray)


class Siamese(nn.Module):
    """Two pictures, and a scale that is no map."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 20, 3, padding=1)

    def forward(self, left: torch.Tensor, right: torch.Tensor, scale: torch.Tensor) -> dict[str, torch.Tensor]:
        a, b = self.conv(left), self.conv(right)
        return {
            "difference": torch.relu(a) - torch.relu(b),
            "sizes": scale.to(torch.int64) * 2,
            "scaled": a * scale[:, None, None],
        }


@pytest.mark.parametrize("scheme", SCHEMES)
def test_several_inputs(scheme: str, session: Session, tmp_path: Path) -> None:
    module = Siamese().eval()
    generator = torch.Generator().manual_seed(2)
    given = (*(torch.randn(1, 3, 16, 16, generator=generator) for _ in range(2)), torch.tensor([3.0]))
    with torch.inference_mode():
        wanted = module(*given)
    path = tmp_path / "siamese.pt2"
    torch.export.save(torch.export.export(module, given, strict=False), path)
    for model, example in ((module, given), (str(path), None)):
        with fogconv.compile(model, session, example=example, topology=FAST_LINKS, scheme=scheme) as engine:
            same(engine(*given), wanted)
            same(engine(given), wanted)
            same(engine(dict(zip(("left", "right", "scale"), given, strict=True))), wanted)
            with pytest.raises(InputError, match=r"takes 3 inputs \(left, right, scale\), not 1"):
                engine(given[0])
            with pytest.raises(InputError, match="there is no scale"):
                engine({"left": given[0], "right": given[1]})
            with pytest.raises(InputError, match=r"'scale' has the shape \(2,\)"):
                engine(given[0], given[1], torch.ones(2))


def test_a_model_without_tensors_among_its_results_is_refused() -> None:
    class Nothing(nn.Module):
        def forward(self, x: torch.Tensor) -> None:
            return None

    with pytest.raises(ModelError, match="gives no tensor"):
        graph_of(Nothing(), example=torch.zeros(1, 3, 4, 4))


def test_inputs_are_converted_to_what_the_model_takes() -> None:
    x = Tensor("x", 1, 3, 2, 2)
    host = Host("h", (0,), (), lambda values, x: [])
    ports = (Port("x", 0, x.shape), Port("n", None, (2,), 1, "int64"))
    graph = LayerGraph("two", (x,), (host,), ports, (Port("y", None, None, "y"),), {})
    picture, number = arrays_of(graph, {"n": [1.0, 2.0], "x": np.zeros(x.shape)})
    assert (picture.dtype, number.dtype) == (np.float32, np.int64)


def test_nesting() -> None:
    assert nested({"a": (0, None), "b": 1}, ["first", "second"]) == {"a": ("first", None), "b": "second"}
