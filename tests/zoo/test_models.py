"""The zoo: names, weights and labels, and what it says when something is wrong."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from fogconv.errors import DependencyError, ModelError
from fogconv.frontend.torch.export import export
from fogconv.zoo import models as zoo
from fogconv.zoo.card import says_random
from fogconv.zoo.models import imagenet_labels, load_model, model_names
from fogconv.zoo.preprocessing import load_image
from tests.graph_reference import run_graph


def probabilities(model: zoo.ZooModel, image: str) -> torch.Tensor:
    with torch.no_grad():
        return model.module(torch.from_numpy(model.preprocess(load_image(image)))[None]).softmax(1)[0]


@pytest.mark.parametrize(
    ("image", "label", "probability"), [("coffee", "espresso", 0.944), ("chelsea", "Egyptian cat", 0.39)]
)
def test_real_weights_recognise_real_photographs(image: str, label: str, probability: float) -> None:
    model = load_model("efficientnet_lite0")
    assert model.weights_origin.startswith("pretrained")
    first, index = probabilities(model, image).max(0)
    assert model.label(int(index)) == label
    assert float(first) == pytest.approx(probability, abs=0.005)


def test_the_graph_of_the_real_model_says_espresso_too() -> None:
    model = load_model("efficientnet_lite0")
    graph = export(model.module, model.example(), model.name)
    assert (len(graph.convs), sum(conv.spec.depthwise for conv in graph.convs)) == (49, 16)
    result = torch.from_numpy(run_graph(graph, model.preprocess(load_image("coffee"))[None])).softmax(1)[0]
    assert model.label(int(result.argmax())) == "espresso"
    assert float(result.max()) == pytest.approx(0.944, abs=0.005)


def test_labels_are_imagenets_thousand() -> None:
    labels = imagenet_labels()
    assert len(labels) == 1000
    assert (labels[0], labels[967]) == ("tench", "espresso")


def test_every_classification_model_of_torchvision_is_known() -> None:
    names = model_names()
    assert {"resnet50", "vit_b_16", "maxvit_t", "efficientnet_lite0"} <= set(names)
    assert "fasterrcnn_resnet50_fpn" not in names


def test_a_file_of_weights_may_have_random_in_its_name() -> None:
    assert says_random("random (seed 3)") and not says_random("random.pth")


def test_an_unknown_model_gets_near_names() -> None:
    with pytest.raises(ModelError, match=r"resnet50\b"):
        load_model("resnet-5O")
    with pytest.raises(ModelError, match="no model called zzzzzz"):
        load_model("zzzzzz")
    with pytest.raises(ModelError, match=r"\.pt2"):
        load_model("model.pth")
    with pytest.raises(ModelError, match=r"fogconv\.compile or `fogconv run`"):
        load_model("model.onnx")


def test_random_weights_are_the_same_each_time_and_leave_the_global_generator_alone() -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    one, two = (load_model("squeezenet1_0", weights="random", size=64) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert one.weights_origin == "random (seed 0)"
    for a, b in zip(one.module.state_dict().values(), two.module.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_without_a_network_seeded_weights_stand_in_and_say_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(zoo.urllib.request, "urlopen", unreachable)
    model = load_model("squeezenet1_0", size=64)
    assert model.weights_origin.startswith("random (seed 0)")
    assert "are not available" in model.weights_origin


def unreachable(*_: object, **__: object) -> None:
    raise OSError("network is unreachable")


def test_weights_in_torchs_cache_are_taken_without_a_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    published = zoo.torchvision_models().get_model_weights("squeezenet1_0").DEFAULT
    donor = load_model("squeezenet1_0", weights="random", size=64, seed=3).module.state_dict()
    (tmp_path / "checkpoints").mkdir()
    torch.save(donor, tmp_path / "checkpoints" / published.url.rsplit("/", 1)[-1])
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(zoo.urllib.request, "urlopen", unreachable)
    monkeypatch.setattr(
        torch.hub, "load_state_dict_from_url", lambda url, **_: torch.load(tmp_path / "checkpoints" / url.rsplit("/", 1)[-1])
    )  # the hub checks a hash in the name, which seeded weights can't have
    model = load_model("squeezenet1_0")
    assert model.weights_origin.startswith("pretrained")
    assert torch.equal(model.module.state_dict()["features.0.weight"], donor["features.0.weight"])


def test_a_state_dict_is_loaded(tmp_path: Path) -> None:
    donor = load_model("squeezenet1_0", weights="random", size=64, seed=7).module
    torch.save({"state_dict": {f"module.{key}": value for key, value in donor.state_dict().items()}}, tmp_path / "w.pth")
    model = load_model("squeezenet1_0", weights=str(tmp_path / "w.pth"))
    assert model.weights_origin == str(tmp_path / "w.pth")
    assert torch.equal(model.module.state_dict()["features.0.weight"], donor.state_dict()["features.0.weight"])


def test_weights_that_do_not_fit_name_the_first_key(tmp_path: Path) -> None:
    whole = load_model("squeezenet1_0", weights="random", size=64).module.state_dict()
    cases = {
        "extra": ({**whole, "surplus.weight": torch.zeros(1)}, "surplus.weight"),
        "missing": (
            {key: value for key, value in whole.items() if key != "features.3.squeeze.bias"},
            "features.3.squeeze.bias",
        ),
        "shape": ({**whole, "features.0.weight": torch.zeros(2, 3, 7, 7)}, r"features.0.weight is \(2, 3, 7, 7\)"),
        "list": ([1, 2], "holds no state_dict"),
        "integer": ({0: torch.zeros(1)}, "0 is not the name"),
        "sparse": ({**whole, "features.0.weight": whole["features.0.weight"].to_sparse()}, "features.0.weight is sparse"),
        "meta": ({**whole, "features.0.weight": whole["features.0.weight"].to("meta")}, "is a meta tensor"),
        "complex": ({**whole, "features.0.weight": whole["features.0.weight"].to(torch.complex64)}, "is complex"),
        "quantised": (
            {**whole, "features.0.weight": torch.quantize_per_tensor(whole["features.0.weight"], 0.1, 0, torch.qint8)},
            "is quantised",
        ),
    }
    for name, (state, message) in cases.items():
        torch.save(state, tmp_path / name)
        with pytest.raises(ModelError, match=message):
            load_model("squeezenet1_0", weights=str(tmp_path / name))
    (tmp_path / "text").write_text("no weights")
    with pytest.raises(ModelError, match="not a file of weights"):
        load_model("squeezenet1_0", weights=str(tmp_path / "text"))
    with pytest.raises(ModelError, match="no weights file"):
        load_model("squeezenet1_0", weights=str(tmp_path / "nowhere"))


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_auxiliary_heads_are_gone(name: str) -> None:
    model = load_model(name, weights="random", size=96)
    with torch.no_grad():
        assert isinstance(model.module(model.example()), torch.Tensor)
    assert not [key for key in model.module.state_dict() if key.lower().startswith("aux")]


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_weights_with_auxiliary_heads_fit_all_the_same(name: str, tmp_path: Path) -> None:
    with_heads = zoo.torchvision_models().get_model(name, weights=None, init_weights=False).state_dict()
    torch.save(with_heads, tmp_path / "w.pth")
    load_model(name, weights=str(tmp_path / "w.pth"))


class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x).mean((2, 3))


def test_an_exported_file_is_a_model(tmp_path: Path) -> None:
    module = Tiny().eval()
    torch.export.save(torch.export.export(module, (torch.zeros(1, 3, 20, 30),), strict=False), tmp_path / "tiny.pt2")
    (tmp_path / "labels").write_text("a\nb\nc\n")
    model = load_model(str(tmp_path / "tiny.pt2"), mean=(0.5,) * 3, std=(0.5,) * 3, labels=tmp_path / "labels")
    assert model.name == "tiny"
    assert model.input_size == (20, 30)
    assert (model.label(1), model.label(3)) == ("b", "class 3")
    assert model.weights_origin == "as saved in tiny.pt2"
    image = torch.from_numpy(model.preprocess(load_image("coffee")))[None]
    graph = export(model.module, model.example(), model.name)
    torch.testing.assert_close(torch.from_numpy(run_graph(graph, image.numpy())), module(image))


def test_bad_exported_files_get_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "text.pt2").write_text("no program")
    torch.export.save(torch.export.export(nn.ReLU(), (torch.zeros(4),), strict=False), tmp_path / "flat.pt2")
    torch.export.save(torch.export.export(Tiny(), (torch.zeros(1, 3, 9, 9),), strict=False), tmp_path / "nine.pt2")
    for name, settings, message in [
        ("none.pt2", {}, "no model file"),
        ("text.pt2", {}, "not a program"),
        ("flat.pt2", {}, "batch of images"),
        ("nine.pt2", {"size": 10}, "exported for 9×9"),
        ("nine.pt2", {"weights": "random"}, "its own weights"),
        ("nine.pt2", {"labels": "nowhere.txt"}, "labels can't be read"),
    ]:
        with pytest.raises(ModelError, match=message):
            load_model(str(tmp_path / name), **settings)  # type: ignore[arg-type]


def test_torchvision_is_imported_beside_a_cpu_torch() -> None:
    """In a fresh process: this one may have imported it already."""
    script = "from fogconv.zoo.models import torchvision_models as t; print(t().resnet18.__name__)"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=dict(os.environ))
    assert result.stdout.strip() == "resnet18"


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(DependencyError, match="pip install efficientnet-lite-pytorch"):
        load_model("efficientnet_lite0")
