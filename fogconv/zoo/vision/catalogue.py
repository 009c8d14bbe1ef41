"""Catalogue: what is known of torchvision's models beyond what torchvision says: their tasks, sizes and options.

The packages of torchvision are imported by the caller, see `fogconv.zoo.models.torchvision_models`.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from torch import nn

from fogconv.zoo.card import Task
from fogconv.zoo.detection import SPECS
from fogconv.zoo.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from fogconv.zoo.vision.detector import Detector

SEGMENTERS = (
    "fcn_resnet50", "fcn_resnet101", "deeplabv3_resnet50", "deeplabv3_resnet101", "deeplabv3_mobilenet_v3_large",
    "lraspp_mobilenet_v3_large",
)  # fmt: skip
DETECTORS: Mapping[str, Preprocessing] = MappingProxyType({
    "ssd300_vgg16": Preprocessing((300, 300), 300, (0.48235, 0.45882, 0.40784), (1 / 255,) * 3),
    "ssdlite320_mobilenet_v3_large": Preprocessing((320, 320), 320, (0.5,) * 3, (0.5,) * 3),
    "retinanet_resnet50_fpn": Preprocessing((800, 1088), 800, IMAGENET_MEAN, IMAGENET_STD),
    "fcos_resnet50_fpn": Preprocessing((800, 1088), 800, IMAGENET_MEAN, IMAGENET_STD),
})  # fmt: skip
"""Those that decode by `fogconv.zoo.detection`. torchvision scales the shorter side to 800 and pads both to multiples of 32;
800×1088 holds a photograph of 3 to 4."""

VOC = (
    "__background__", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
"""The classes of Pascal VOC 2012 by number, as torchvision's segmentation models use them."""

_SKIPS_OWN_INITIALISATION = ("googlenet", "inception_v3", "vgg")


def names(models: Any) -> tuple[str, ...]:
    """Every name of torchvision's that is known: classifiers first."""
    return (*models.list_models(module=models), *SEGMENTERS, *DETECTORS)


def task_of(name: str) -> Task:
    return "segment" if name in SEGMENTERS else "detect" if name in DETECTORS else "classify"


def labels_of(name: str) -> tuple[str, ...] | None:
    """The classes of a model that is no classifier of ImageNet's."""
    return VOC if name in SEGMENTERS else SPECS[name].labels if name in DETECTORS else None


def build(models: Any, name: str, published: Any | None) -> nn.Module:
    """The module, with published weights or fresh ones; a detector without what turns its maps into boxes."""
    options: dict[str, Any] = {"weights": published}
    if task_of(name) != "classify":
        options["weights_backbone"] = None
    if name in SEGMENTERS and name != "lraspp_mobilenet_v3_large":
        options["aux_loss"] = True  # as the published ones have it
    if published is None and name.startswith(_SKIPS_OWN_INITIALISATION):
        options["init_weights"] = False
    module: nn.Module = models.get_model(name, **options)
    return Detector(module) if name in DETECTORS else module


def usual(name: str, published: Any) -> Preprocessing:
    """The pictures that the published weights were made for."""
    if name in DETECTORS:
        return DETECTORS[name]
    given: Mapping[str, Any] = getattr(published.transforms, "keywords", {})
    resize = int(given.get("resize_size", 256))
    crop = resize if name in SEGMENTERS else int(given.get("crop_size", 224))
    interpolation = given.get("interpolation")
    return Preprocessing(
        (crop, crop),
        resize,
        tuple(given.get("mean", IMAGENET_MEAN)),
        tuple(given.get("std", IMAGENET_STD)),
        "bilinear" if interpolation is None else str(interpolation.value),
    )
