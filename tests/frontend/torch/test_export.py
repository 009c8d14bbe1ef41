"""Whole models: the graph computes what the module computes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from fogconv.errors import ModelError
from fogconv.frontend.torch.export import export, from_exported
from fogconv.ir.graph import LayerGraph
from fogconv.ir.layers import Conv, Host
from tests.graph_reference import run_graph
from tests.seeded_models import ALL_MODELS, ENGINE_MODELS, model, model64, photograph, published, small


def relative_error(module: nn.Module, graph: LayerGraph, image: np.ndarray) -> float:
    with torch.no_grad():
        expected = module(torch.from_numpy(image)).numpy()
    assert graph.outputs[0].shape == expected.shape
    return float(np.abs(run_graph(graph, image) - expected).max() / np.abs(expected).max())


def exact_in_float64(name: str, size: int, batch: int = 1) -> LayerGraph:
    module = model64(name, size)
    image = np.concatenate([photograph(name, size)] * batch).astype(np.float64)
    image += np.random.default_rng(0).normal(0, 0.1, image.shape)
    graph = export(module, torch.from_numpy(image), name)
    assert relative_error(module, graph, image) < 1e-9
    return graph


SLOW = ("resnet50", "resnext50_32x4d", "vgg11", "vgg11_bn", "inception_v3", "vit_b_32", "convnext_tiny", "efficientnet_b0")
EVERY_MODEL = [pytest.param(name, marks=pytest.mark.full if name in SLOW else ()) for name in ALL_MODELS]


@pytest.mark.parametrize("name", EVERY_MODEL)
def test_a_graph_computes_what_its_model_computes(name: str) -> None:
    graph = exact_in_float64(name, small(name))
    assert graph.convs
    if name in ENGINE_MODELS:
        assert not [layer for layer in graph.layers if isinstance(layer, Host)], "this model needs no torch"


@pytest.mark.full
@pytest.mark.parametrize("name", [name for name in ALL_MODELS if small(name) != published(name)])
def test_a_graph_computes_what_its_model_computes_at_the_published_size(name: str) -> None:
    exact_in_float64(name, published(name))


@pytest.mark.parametrize("name", ["shufflenet_v2_x0_5", "mobilenet_v3_small", "swin_t"])
def test_a_batch_of_three_is_exact_as_well(name: str) -> None:
    exact_in_float64(name, small(name), batch=3)


@pytest.mark.parametrize("name", ["resnet18", "convnext_tiny", "densenet121"])
def test_every_map_is_written_once_and_before_it_is_read(name: str) -> None:
    size = small(name)
    graph = export(model(name, size).module, model(name, size).example(), name)
    there = set(graph.given)
    for layer in graph.layers:
        assert there.issuperset(layer.reads), layer
        assert there.isdisjoint(layer.writes), layer
        there.update(layer.writes)
    assert there == set(range(len(graph.tensors)))
    assert there.issuperset(graph.results)
    names = [layer.name for layer in graph.layers]
    assert len(set(names)) == len(names)


def test_resnet18_is_nothing_but_convs_with_their_batch_norms_activations_and_sums_taken_in() -> None:
    zoo = model("resnet18", 64)
    graph = export(zoo.module, zoo.example(), "resnet18")
    assert len(graph.convs) == 20
    assert len(graph.layers) == 23  # a pool, a global pool and the head
    assert sum(conv.residual is not None for conv in graph.convs) == 8
    assert all(conv.bias is not None for conv in graph.convs)
    assert graph.convs[0].name == "conv1"
    assert graph.convs[0].activation == "relu"
    head = graph.layers[-1]
    assert isinstance(head, Conv)
    assert head.linear
    assert graph.outputs[0].shape == (1, 1000)
    assert all(array.dtype == np.float32 for array in graph.weights.values())


def test_a_program_saved_and_loaded_gives_the_same_graph(tmp_path) -> None:  # type: ignore[no-untyped-def]
    zoo = model("mobilenet_v3_small", 64)
    program = torch.export.export(zoo.module, (zoo.example(),), strict=False)
    torch.export.save(program, tmp_path / "small.pt2")
    loaded = from_exported(torch.export.load(tmp_path / "small.pt2"), "small")
    direct = export(zoo.module, zoo.example(), "small")
    assert loaded.layers == direct.layers
    assert loaded.weights.keys() == direct.weights.keys()


def test_a_program_in_core_aten_is_understood() -> None:
    zoo = model("resnet18", 64)
    program = torch.export.export(zoo.module, (zoo.example(),), strict=False).run_decompositions()
    graph = from_exported(program, "decomposed")
    assert not [layer for layer in graph.layers if isinstance(layer, Host)]
    assert relative_error(zoo.module, graph, photograph("resnet18", 64)) < 1e-4


def test_exporting_leaves_the_model_in_the_mode_it_was_in() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).train()
    module[1].eval()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    export(module, torch.zeros(1, 3, 8, 8), "small")
    assert module.training
    assert not module[1].training
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


class TwoInputs(nn.Module):
    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return x + y


class Undecided(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if float(x.sum()) > 0 else -x


class Constant(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.ones(3)


@pytest.mark.parametrize(
    ("module", "example", "message"),
    [
        (TwoInputs(), torch.zeros(1, 3, 8, 8), "can't capture"),
        (Undecided(), torch.zeros(1, 3, 8, 8), "can't capture"),
        (Constant(), torch.zeros(1, 3, 8, 8), "constant"),
        (nn.ReLU(), torch.zeros(3, 8), r"\(N, C, H, W\)"),
        (nn.Conv2d(3, 4, 1).half(), torch.zeros(1, 3, 8, 8, dtype=torch.float16), "float"),
    ],
)
def test_what_is_no_image_model_is_refused_in_a_sentence(module: nn.Module, example: torch.Tensor, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        export(module, example, "odd")


def test_a_program_with_a_free_batch_size_is_refused_in_a_sentence() -> None:
    batch = torch.export.Dim("batch", min=1, max=8)
    program = torch.export.export(nn.Conv2d(3, 4, 3), (torch.zeros(2, 3, 8, 8),), dynamic_shapes=({0: batch},), strict=False)
    with pytest.raises(ModelError, match="fixed size"):
        from_exported(program, "free")
