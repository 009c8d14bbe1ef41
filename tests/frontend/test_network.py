"""A model that was opened once is opened again without torch, and gives the same graph and the same answers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fogconv.frontend.network import network_graph, open_network
from fogconv.zoo.model_request import ModelRequest

REQUEST = ModelRequest("squeezenet1_1", "random", 64)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOGCONV_CACHE_DIR", str(tmp_path))
    monkeypatch.delenv("FOGCONV_GRAPH_CACHE", raising=False)


def test_open_network_gives_the_same_from_the_cache() -> None:
    first = open_network(REQUEST, batch=2)
    first.keep()
    again = open_network(REQUEST, batch=2, mean=(0.5, 0.5, 0.5), std=(1.0, 1.0, 1.0))
    assert again.graph == first.graph
    assert again.card.weights_origin == first.card.weights_origin == "random (seed 0)"
    assert again.card.labels == first.card.labels
    assert again.card.preprocessing.mean == (0.5, 0.5, 0.5)
    assert first.graph.weights.keys() == again.graph.weights.keys()
    assert all(np.array_equal(array, again.graph.weights[key]) for key, array in first.graph.weights.items())
    x = np.random.default_rng(0).standard_normal((2, 3, 64, 64), np.float32)
    assert again.alone().framework == "torch"
    assert np.array_equal(again.alone().run([x])[0], first.alone().run([x])[0])


def test_open_network_reads_labels_that_are_given(tmp_path: Path) -> None:
    names = tmp_path / "labels.txt"
    names.write_text("eins\nzwei\n")
    for _ in range(2):
        network = open_network(REQUEST, labels=names)
        assert network.card.label(1) == "zwei"
        network.keep()


def test_network_graph_is_kept_without_torch() -> None:
    network_graph(REQUEST)
    code = (
        "import sys\n"
        "from fogconv.frontend.network import network_graph\n"
        "from fogconv.zoo.model_request import ModelRequest\n"
        "graph = network_graph(ModelRequest('squeezenet1_1', 'random', 64))\n"
        "print(len(graph.layers), 'torch' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ, check=True)
    assert done.stdout.split() == [str(len(network_graph(REQUEST).layers)), "False"]
