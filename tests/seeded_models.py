"""The test models: seeded weights in which every layer matters, each exported once per session.

Reduced sizes keep the quick suite quick; where an architecture fixes its input (or a head needs its 7×7) it is the real one.
"""

from __future__ import annotations

import copy
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray

from fogconv.frontend.torch.export import export
from fogconv.ir.graph import LayerGraph
from fogconv.zoo.models import ZooModel, load_model
from fogconv.zoo.preprocessing import load_image

ENGINE_MODELS = (
    "resnet18",
    "resnet50",
    "vgg11",
    "mobilenet_v2",
    "shufflenet_v2_x0_5",
    "inception_v3",
    "densenet121",
    "resnext50_32x4d",
    "efficientnet_lite0",
)
MORE_MODELS = (
    "alexnet",
    "convnext_tiny",
    "efficientnet_b0",
    "googlenet",
    "mnasnet0_5",
    "mobilenet_v3_small",
    "regnet_y_400mf",
    "squeezenet1_0",
    "swin_t",
    "vgg11_bn",
    "vit_b_32",
)
ALL_MODELS = ENGINE_MODELS + MORE_MODELS

SMALL = {"vgg11": 224, "vgg11_bn": 224, "alexnet": 224, "vit_b_32": 224, "efficientnet_lite0": 224, "inception_v3": 139}
PUBLISHED = {"inception_v3": 299}


def small(name: str) -> int:
    """The side of the reduced input, in pixels."""
    return SMALL.get(name, 64)


def published(name: str) -> int:
    return PUBLISHED.get(name, 224)


@cache
def model(name: str, size: int) -> ZooModel:
    return load_model(name, weights="random", size=size)


@cache
def graph(name: str, size: int, batch: int = 1) -> LayerGraph:
    zoo = model(name, size)
    return export(zoo.module, zoo.example(batch), name)


def model64(name: str, size: int) -> torch.nn.Module:
    """A copy in float64; not cached, for these are large."""
    return copy.deepcopy(model(name, size).module).double()


@cache
def photograph(name: str, size: int) -> NDArray[np.float32]:
    """(1, 3, H, W): the coffee, as this model wants it."""
    return model(name, size).preprocess(load_image("coffee"))[None]
