"""torchvision's segmentation models and detectors: the graph computes what the module computes, output by output."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from fogconv.frontend.torch.export import export, leaves  # noqa: E402
from fogconv.zoo.detection import SPECS  # noqa: E402
from fogconv.zoo.models import ZooModel, load_model, model_names, torchvision_models  # noqa: E402
from fogconv.zoo.vision.catalogue import DETECTORS, SEGMENTERS, VOC  # noqa: E402
from tests.graph_reference import run_outputs  # noqa: E402

SIZE = {"ssd300_vgg16": (300, 300), "ssdlite320_mobilenet_v3_large": (320, 320)}
QUICK = ("lraspp_mobilenet_v3_large", "fcn_resnet50", "ssdlite320_mobilenet_v3_large", "fcos_resnet50_fpn")
"""One of each kind; `make test-full` has all."""


def names() -> list[Any]:
    every = (*SEGMENTERS, *DETECTORS)
    return [name if name in QUICK else pytest.param(name, marks=pytest.mark.full) for name in every]


def small(name: str) -> ZooModel:
    return load_model(name, weights="random", size=SIZE.get(name, (64, 96)))


@pytest.mark.parametrize("name", names())
def test_a_graph_has_all_outputs_of_its_model(name: str) -> None:
    model = small(name)
    module = model.module.double()
    x = torch.randn(1, 3, *model.input_size, generator=torch.Generator().manual_seed(0)).double()
    with torch.inference_mode():
        wanted = module(x)
    graph = export(module, x, name)
    assert list(wanted) == [port.name for port in graph.outputs]
    for found, right in zip(run_outputs(graph, [x.numpy()]), leaves(wanted), strict=True):
        assert found.shape == tuple(right.shape)
        assert np.abs(found - right.numpy()).max() <= 1e-10 * float(right.abs().max())


@pytest.mark.parametrize("name", names())
def test_rounding_errors_do_not_grow(name: str) -> None:
    """So that an error against torch is an error, and not chance."""
    model = small(name)
    x = torch.randn(1, 3, *model.input_size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        short, long = leaves(model.module(x)), leaves(model.module.double()(x.double()))
    for found, right in zip(short, long, strict=True):
        assert float((found - right).abs().max()) <= 2e-5 * float(right.abs().max())


def test_a_detectors_maps_are_torchvisions_head() -> None:
    """Permuted and joined, they are what torchvision's own heads give."""
    torch.manual_seed(0)
    for name in DETECTORS:
        whole = torchvision_models().get_model(name, weights=None, weights_backbone=None).eval()
        model = small(name)
        state = model.module.state_dict()
        whole.load_state_dict(state)
        x = torch.randn(1, 3, *model.input_size)
        with torch.inference_mode():
            features = list(whole.backbone(x).values())
            wanted, found = whole.head(features), model.module(x)
        spec = SPECS[name]
        assert list(found) == list(spec.outputs)
        for sort, right in wanted.items():
            parts = []
            for level, anchors in enumerate(spec.levels):
                maps = found[f"{sort}.{level}"]
                each = maps.reshape(1, len(anchors.boxes), -1, *maps.shape[2:]).permute(0, 3, 4, 1, 2)
                parts.append(each.reshape(1, -1, each.shape[-1]))
            torch.testing.assert_close(torch.cat(parts, 1), right, rtol=1e-5, atol=1e-5)


def test_cards_say_the_task() -> None:
    assert set(SEGMENTERS) | set(DETECTORS) <= set(model_names())
    card = small("lraspp_mobilenet_v3_large")
    assert (card.task, card.detection, card.labels) == ("segment", None, VOC)
    card = small("ssdlite320_mobilenet_v3_large")
    assert (card.task, card.detection) == ("detect", SPECS[card.name])
    assert card.labels[1] == "person"
    meta = torchvision_models().get_model_weights("fcn_resnet50").DEFAULT.meta
    assert tuple(meta["categories"]) == VOC


@pytest.mark.parametrize("name", [name for name in names() if name not in QUICK[1:]])
def test_every_conv_matters(name: str) -> None:
    """Without any one of them, some output is off by more than 1e-3."""
    model = small(name)
    x = torch.randn(1, 3, *model.input_size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        wanted = leaves(model.module(x))
        for path, conv in model.module.named_modules():
            if isinstance(conv, torch.nn.Conv2d):
                kept = conv.weight.detach().clone()
                conv.weight.zero_()
                pairs = zip(leaves(model.module(x)), wanted, strict=True)
                off = max(float((found - right).abs().max() / right.abs().max()) for found, right in pairs)
                conv.weight.copy_(kept)
                assert off > 1e-3, path
