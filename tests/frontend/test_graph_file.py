"""A graph is the same after it was a file, and a damaged file is no graph."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from fogconv.errors import ModelError
from fogconv.frontend.graph_file import ALIGNMENT, packed, unpacked
from fogconv.ir.graph import LayerGraph
from fogconv.ir.layers import Elementwise, Host, Tensor
from tests.random_graphs import graphs


def without_hosts(graph: LayerGraph) -> LayerGraph:
    layers = (
        Elementwise(layer.name, "relu", layer.reads, layer.writes[0]) if isinstance(layer, Host) else layer
        for layer in graph.layers
        if layer.writes
    )
    outputs = tuple(port for port in graph.outputs if port.tensor is not None)
    structure = {"first": 0, "rest": tuple(range(1, len(outputs)))}
    return replace(graph, layers=tuple(layers), outputs=outputs, structure=structure)


def written(folder: Path, graph: LayerGraph, about: Any = "nothing") -> Path:
    path = folder / "graph"
    path.write_bytes(b"".join(packed(graph, about)))
    return path


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(graph=graphs().map(without_hosts))
def test_graph_file_gives_back_the_graph(tmp_path: Path, graph: LayerGraph) -> None:
    with written(tmp_path, graph, {"origin": "random"}).open("rb") as file:
        again, about = unpacked(file, dict[str, str])
    assert again == graph
    assert about == {"origin": "random"}
    assert list(again.weights) == list(graph.weights)
    for key, array in graph.weights.items():
        assert np.array_equal(again.weights[key], array)
        assert again.weights[key].ctypes.data % ALIGNMENT == 0
        again.weights[key][...] = 0  # a private copy: the file stays as it is
    with (tmp_path / "graph").open("rb") as file:
        assert all(np.array_equal(unpacked(file, dict[str, str])[0].weights[k], a) for k, a in [*graph.weights.items()][:1])


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(graph=graphs().map(without_hosts))
def test_graph_file_that_is_damaged_is_refused(tmp_path: Path, graph: LayerGraph) -> None:
    path = written(tmp_path, graph)
    whole = path.read_bytes()
    places = {0, 9, 50, len(whole) // 2}
    places |= {whole.find(array.tobytes()) for array in graph.weights.values()}
    refused = 0
    for place in places:
        broken = bytearray(whole)
        broken[place] ^= 0x10
        path.write_bytes(broken)
        with path.open("rb") as file:
            try:
                again, _ = unpacked(file, str)
            except ModelError:
                refused += 1
            else:  # between two arrays, where nothing lies
                assert again == graph
                assert all(np.array_equal(again.weights[key], array) for key, array in graph.weights.items())
    assert refused >= 3 + len(graph.weights)
    for length in (0, 7, 39, 60, len(whole) // 2):
        path.write_bytes(whole[:length])
        with path.open("rb") as file, pytest.raises(ModelError, match="not a file of a graph"):
            unpacked(file, str)


def test_graph_file_of_what_runs_in_torch_is_refused() -> None:
    host = Host("host:sort", (0,), (1,), lambda values, x: [x])
    shape = Tensor("x", 1, 3, 8, 8)
    graph = LayerGraph.single("sorted", (shape, shape), (host,), 0, 1, shape.shape, {})
    with pytest.raises(ModelError, match="host:sort runs in torch"):
        io.BytesIO().writelines(packed(graph, None))
