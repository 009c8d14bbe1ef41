"""The zoo's graphs that the package carries: those that torch gives, without their weights."""

from __future__ import annotations

import subprocess
import sys

import msgspec
import numpy as np
import pytest

from fogconv.errors import InputError
from fogconv.frontend import zoo_graphs
from fogconv.hardware.topology import Topology
from fogconv.ir.layers import Host
from fogconv.planning.memory import needed_bytes
from fogconv.planning.planner import plan
from fogconv.zoo.accuracy import accuracies


@pytest.mark.parametrize("name", ["squeezenet1_1", "mobilenet_v3_small", "shufflenet_v2_x0_5"])
def test_a_graph_is_the_one_that_torch_exports(name: str) -> None:
    """Red where a layer's type, a rule or a fusion changed: `python -m bench.zoo_graphs` writes the file again."""
    from fogconv.frontend.torch.export import export
    from fogconv.zoo.models import load_model

    model = load_model(name, weights="random")
    expected = zoo_graphs.shaped(export(model.module, model.example(), name))
    assert msgspec.msgpack.encode(zoo_graphs.read_shaped()[name]) == msgspec.msgpack.encode(expected)


def test_a_graph_plans_and_takes_memory_as_the_exported_one_does() -> None:
    from fogconv.frontend.network import network_graph
    from fogconv.zoo.model_request import ModelRequest

    exported, carried = network_graph(ModelRequest.for_shapes("squeezenet1_1")), zoo_graphs.graph("squeezenet1_1")
    topology = Topology.uniform(3, 10e9, 1e8, 1e-4)
    ours, theirs = plan(carried, topology), plan(exported, topology)
    assert ours.predicted_s == theirs.predicted_s and ours.placements == theirs.placements
    assert needed_bytes(carried, ours, topology) == needed_bytes(exported, theirs, topology)


def test_every_graph_can_be_opened_and_none_needs_torch() -> None:
    for name in zoo_graphs.names():
        graph = zoo_graphs.graph(name)
        assert graph.layers and not any(isinstance(layer, Host) for layer in graph.layers), name
        keys = {getattr(layer, key) for layer in graph.layers for key in layer.weight_keys} - {None}
        assert keys <= graph.weights.keys(), name
    assert len(zoo_graphs.names()) >= 60
    assert set(zoo_graphs.names()) <= accuracies().keys()


def test_shapes_take_no_memory_and_seeded_weights_keep_activations_in_range() -> None:
    assert all(weight.strides == (0,) * weight.ndim for weight in zoo_graphs.graph("vgg16").weights.values())
    seeded = zoo_graphs.graph("squeezenet1_1", seeded=True)
    for layer in seeded.convs:
        weight = seeded.weights[layer.weight]
        fan_in = float(np.prod(weight.shape[1:]))
        assert weight.std() == pytest.approx(np.sqrt(2 / fan_in), rel=0.1)


def test_a_model_for_torch_is_answered_by_the_reason() -> None:
    with pytest.raises(InputError, match="only torch can run"):
        zoo_graphs.graph("vit_b_16")
    with pytest.raises(InputError, match="did you mean resnet50"):
        zoo_graphs.graph("resnet5")


def test_no_torch_is_imported() -> None:
    program = (
        "import sys; from fogconv.frontend.zoo_graphs import graph; graph('vgg16'); "
        "print('torch' in sys.modules, 'PIL' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
