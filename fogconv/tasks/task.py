"""Task: what a model's outputs mean, and the finding that they become."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from fogconv.errors import ModelError
from fogconv.ir.arrays import Array
from fogconv.tasks.classify import classes
from fogconv.tasks.detect.anchors import detections
from fogconv.tasks.detect.boxes import Boxes
from fogconv.tasks.detect.centerface import faces, is_centerface
from fogconv.tasks.detect.yolox import cells, objects
from fogconv.tasks.draw import Finding
from fogconv.tasks.raw import raw
from fogconv.tasks.segment import mask
from fogconv.tasks.text.reading import line
from fogconv.tasks.text.regions import regions
from fogconv.zoo.card import ModelCard, Task
from fogconv.zoo.fitting import Fitting, Placement


def card_for(card: ModelCard, task: Task | None, shapes: Sequence[tuple[int, ...] | None]) -> ModelCard:
    """The card with the task that the user names, if any. ``shapes`` are those of the outputs (N, …): a model of unknown
    outputs classifies if it gives one row of scores for each picture."""
    if task is None and card.task == "classify" and (len(shapes) != 1 or shapes[0] is None or len(shapes[0]) < 2):
        task = "raw"
    return card if task is None else replace(card, task=task)


def fitting_of(card: ModelCard) -> Fitting | None:
    """How whole pictures become the model's input; None where it takes their centres (`ModelCard.preprocess`)."""
    if card.fitting is not None:
        return card.fitting
    if card.task in ("classify", "raw"):
        return None
    how = card.detection.fit if card.detection is not None else "stretch"
    mean, std = card.preprocessing.mean, card.preprocessing.std
    return Fitting(how, (mean[0], mean[1], mean[2]), (std[0], std[1], std[2]))


def finding(card: ModelCard, outputs: Mapping[str, Array], index: int, placement: Placement) -> Finding:
    """What the model found in picture number ``index`` of the batch. ``outputs`` by name, (N, …) each.

    Raises ModelError for outputs that can't be of this task.
    """
    _check_finite(card, outputs)
    if card.task == "raw":
        batch = max((len(values) for values in outputs.values() if values.ndim), default=0)
        shared = {name for name, values in outputs.items() if not values.ndim or len(values) != batch}
        return raw({name: values if name in shared else values[index] for name, values in outputs.items()})
    one = {name: _of(values, index, name) for name, values in outputs.items()}
    if card.task == "classify":
        return classes(_single(card, one), card.label)
    if card.task == "segment":
        return mask(one["out"] if "out" in one else _single(card, one), placement, card.label)
    if card.task == "text":
        output = _single(card, one)
        return line(output, card.labels, placement) if output.ndim == 2 else regions(output, placement)
    return _boxes(card, one, placement)


def _boxes(card: ModelCard, outputs: Mapping[str, Array], placement: Placement) -> Boxes:
    if card.detection is not None:
        missing = [name for name in card.detection.outputs if name not in outputs]
        if missing:
            raise ModelError(f"{card.name} has no output {missing[0]}, which its boxes are made from")
        return detections(outputs, card.detection, placement)
    arrays = tuple(outputs.values())
    if is_centerface([(1, *array.shape) for array in arrays]):
        heat, scale, offset, landmarks = arrays
        return faces(heat, scale, offset, landmarks, placement, card.label)
    if len(arrays) == 1 and arrays[0].ndim == 2 and arrays[0].shape[1] > 5 and len(arrays[0]) == cells(placement.size):
        return objects(arrays[0], placement, card.label)
    shapes = ", ".join(str(array.shape) for array in arrays)
    raise ModelError(
        f"{card.name}: outputs of the shapes {shapes} are of no detector that fogconv knows; use --task raw, or "
        "fogconv.compile and your own code"
    )


def _of(values: Array, index: int, name: str) -> Array:
    if values.ndim < 1 or index >= len(values):
        raise ModelError(f"output {name} has the shape {values.shape}, which is not one entry for each picture")
    return np.asarray(values[index])


def _single(card: ModelCard, outputs: Mapping[str, Array]) -> Array:
    if len(outputs) != 1:
        names = ", ".join(outputs)
        raise ModelError(f"{card.name} has {len(outputs)} outputs ({names}); --task {card.task} takes one; use --task raw")
    return next(iter(outputs.values()))


def _check_finite(card: ModelCard, outputs: Mapping[str, Array]) -> None:
    if not all(np.isfinite(values).all() for values in outputs.values()):
        raise ModelError(f"{card.name} gives infinities or NaN for this input, with weights {card.weights_origin}")
