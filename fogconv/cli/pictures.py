"""Pictures: what a run is given, as the network's input; and what was found in it, drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fogconv.errors import DependencyError, InputError, ModelError, visible, with_extra
from fogconv.ir.arrays import Array
from fogconv.ir.steps import Pixels
from fogconv.tasks.draw import Finding, drawn
from fogconv.tasks.task import finding, fitting_of
from fogconv.tasks.text.regions import Regions
from fogconv.zoo.card import ModelCard
from fogconv.zoo.fitting import Placement
from fogconv.zoo.preprocessing import STANDARD_INPUT, load_input
from fogconv.zoo.wheels.registry import WHEEL_MODELS

if TYPE_CHECKING:
    from PIL import Image

    from fogconv.tasks.text.reading import Reader

Size = int | tuple[int, int] | None
"""One side or (H, W) in pixels; None: the model's own."""


@dataclass(frozen=True)
class Given:
    """A picture, or a tensor (C, H, W) that is the input already."""

    name: str
    picture: Image.Image | None = None
    tensor: Array | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) in pixels."""
        if self.picture is not None:
            return self.picture.height, self.picture.width
        assert self.tensor is not None
        return int(self.tensor.shape[1]), int(self.tensor.shape[2])


@dataclass(frozen=True)
class Inputs:
    """``x`` is (N, C, H, W); ``placements`` say where each picture lies in it. ``pixels`` is how bytes of pictures became
    its values; None for tensors."""

    given: tuple[Given, ...]
    x: Array
    placements: tuple[Placement, ...]
    pixels: Pixels | None

    def findings(self, card: ModelCard, outputs: Mapping[str, Array]) -> tuple[Finding, ...]:
        """What the network found in each. Raises ModelError for outputs that don't fit the task."""
        return tuple(finding(card, outputs, index, placement) for index, placement in enumerate(self.placements))

    def read(self, found: Sequence[Finding], reader: Reader) -> tuple[Finding, ...]:
        """The findings, with the texts of regions of text."""
        return tuple(
            reader.read(given.picture, each) if isinstance(each, Regions) and given.picture is not None else each
            for given, each in zip(self.given, found, strict=True)
        )


def opened(names: Sequence[str]) -> tuple[Given, ...]:
    """Raises ModelError, InputError."""
    if sum(name == STANDARD_INPUT for name in names) > 1:
        raise InputError("--image - can be given once: standard input holds one picture")
    found = []
    for name in names:
        loaded = load_input(name)
        shown = "standard input" if name == STANDARD_INPUT else visible(name)
        found.append(Given(shown, tensor=loaded) if isinstance(loaded, np.ndarray) else Given(shown, loaded))
    return tuple(found)


def input_size(model: str, given: Sequence[Given], size: Size) -> Size:
    """The size to ask the model for: as the user says, that of a tensor, or the one that its rule makes of the first
    picture's."""
    if size is not None:
        return size
    if given[0].tensor is not None:
        return given[0].size
    known = WHEEL_MODELS.get(model)
    return None if known is None or known.framework != "onnx" else known.fitting.size(given[0].size)


def inputs(card: ModelCard, given: tuple[Given, ...], shape: tuple[int, ...]) -> Inputs:
    """``shape`` (N, C, H, W) is the network's: pictures are repeated until there are N.

    Raises ModelError for a tensor of another shape, or a network that takes no pictures.
    """
    size, fitting = (shape[2], shape[3]), fitting_of(card)
    arrays, placements = [], []
    for each in given:
        if each.tensor is not None:
            if each.tensor.shape != shape[1:]:
                raise ModelError(f"{each.name} has the shape {each.tensor.shape}; {card.name} takes {shape[1:]}")
            arrays.append(each.tensor)
            placements.append(Placement(size, size, 1.0, 1.0))
            continue
        assert each.picture is not None
        if shape[1] != 3:
            raise ModelError(
                f"{card.name} takes {shape[1]} channels, not the 3 of a picture; give a tensor from a .npy file"
            )
        if fitting is None:
            arrays.append(card.preprocess(each.picture))
            placements.append(Placement(each.size, size, size[0] / each.size[0], size[1] / each.size[1]))
        else:
            x, placement = fitting(each.picture, size)
            arrays.append(x)
            placements.append(placement)
    how = card.preprocessing if fitting is None else fitting
    pixels = None if any(each.tensor is not None for each in given) else Pixels(how.mean, how.std)
    return Inputs(given, np.stack(arrays * (shape[0] // len(given))), tuple(placements), pixels)


def check_drawable(given: Sequence[Given], path: Path | None) -> None:
    """Before any slow work. Raises InputError."""
    if path is not None and (len(given) != 1 or given[0].picture is None):
        raise InputError("--draw takes one --image, a picture")


def draw(given: Given, found: Finding, path: Path) -> None:
    """Write the picture with the finding in it. Raises InputError where that can't be written."""
    assert given.picture is not None
    try:
        drawn(given.picture, found).save(path, optimize=True)
    except (OSError, ValueError) as error:
        raise InputError(f"{path} can't be written: {error}") from error


def text_reader() -> Reader:
    """ppocr-rec, and ppocr-cls where it is there, in ONNX Runtime on this device.

    Raises ModelError where ppocr-rec is missing, DependencyError without ONNX Runtime.
    """
    from fogconv.tasks.text.reading import Reader
    from fogconv.zoo.wheels.download import kept_model

    try:
        from fogconv.frontend.onnx.runtime import opened_file
    except ImportError as error:
        raise DependencyError(f"--read needs {error.name}, which is not installed: {with_extra('onnx')}") from error
    recogniser = WHEEL_MODELS["ppocr-rec"]
    recognise, characters = opened_file(kept_model(recogniser))
    try:
        direction = opened_file(kept_model(WHEEL_MODELS["ppocr-cls"]))[0]
    except ModelError:
        direction = None
    return Reader(recognise, characters, recogniser.fitting, direction)
