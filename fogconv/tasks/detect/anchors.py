"""Anchors: the outputs of SSD, RetinaNet and FCOS become boxes, by the figures of a `DetectionSpec`.

map of one level     (A·K, H, W) scores, (A·4, H, W) boxes, (A, H, W) centerness
rows of candidates   (H·W·A, K), (H·W·A, 4): cell by cell, row by row, anchor by anchor, as the anchors are
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fogconv.ir.arrays import Array
from fogconv.tasks.detect.boxes import Boxes, Indices, in_picture, suppressed_by_class
from fogconv.zoo.detection import MOST_LOG_SIZE, AnchorLevel, DetectionSpec
from fogconv.zoo.fitting import Placement


def detections(outputs: Mapping[str, Array], spec: DetectionSpec, placement: Placement) -> Boxes:
    """The boxes of one picture. ``outputs`` by name, (C, H, W) each, see `DetectionSpec.outputs`."""
    found = [_level(outputs, spec, number, placement) for number in range(len(spec.levels))]
    if spec.by_class:
        scores, boxes = (np.concatenate(each) for each in zip(*found, strict=True))
        candidates = [_best_of_classes(scores, boxes, spec)]
    else:
        candidates = [_best(scores, boxes, spec) for scores, boxes in found]
    best, boxes, classes = (np.concatenate(each) for each in zip(*candidates, strict=True))
    kept = suppressed_by_class(boxes, best, classes, spec.nms_threshold)[: spec.detections]
    labels = spec.labels
    return in_picture(boxes[kept], best[kept], classes[kept], placement, lambda index: labels[index])


def anchors(level: AnchorLevel, cells: tuple[int, int], size: tuple[int, int]) -> Array:
    """(H·W·A, 4) of a map of ``cells`` (H, W) and an input of ``size``."""
    axes = []
    for count, side in zip(cells, size, strict=True):
        stride = level.stride
        if stride is None:
            stride = side / count if level.offset else side // count
        axes.append((np.arange(count, dtype=np.float32) + np.float32(level.offset)) * np.float32(stride))
    down, across = np.meshgrid(*axes, indexing="ij")
    points = np.stack((across, down, across, down), 2).reshape(-1, 1, 4)
    sides = np.array((size[1], size[0]) * 2 if level.relative else (1, 1, 1, 1), np.float32)
    around = np.array(level.boxes, np.float32) * sides
    return np.asarray((points + around).reshape(-1, 4), np.float32)


def decoded(rows: Array, around: Array, spec: DetectionSpec) -> Array:
    """The boxes (n, 4) that a network's rows (n, 4) give around their anchors (n, 4)."""
    sides = around[:, 2:] - around[:, :2]
    centre = around[:, :2] + sides / 2
    if spec.coder == "distances":
        far = rows * np.concatenate((sides, sides), 1)
        return np.concatenate((centre - far[:, :2], centre + far[:, 2:]), 1)
    moved = rows / np.array(spec.weights, np.float32)
    centre = centre + moved[:, :2] * sides
    half = np.exp(np.minimum(moved[:, 2:], np.float32(MOST_LOG_SIZE))) * sides / 2
    return np.concatenate((centre - half, centre + half), 1)


def _level(outputs: Mapping[str, Array], spec: DetectionSpec, number: int, placement: Placement) -> tuple[Array, Array]:
    """(n, K) scores and (n, 4) boxes, cut off at the edges of the picture's part of the input."""
    level = spec.levels[number]
    scores = _rows(outputs[f"cls_logits.{number}"], spec.classes)
    boxes = outputs[f"bbox_regression.{number}"]
    found = decoded(_rows(boxes, 4), anchors(level, (boxes.shape[1], boxes.shape[2]), placement.size), spec)
    height, width = placement.picture
    edges = np.array((width * placement.across, height * placement.down) * 2, np.float32)
    found = np.clip(found, 0, edges)
    if spec.score == "softmax":
        return _softmax(scores), found
    if spec.score == "sigmoid":
        return _sigmoid(scores), found
    return np.sqrt(_sigmoid(scores) * _sigmoid(_rows(outputs[f"bbox_ctrness.{number}"], 1))), found


def _best(scores: Array, boxes: Array, spec: DetectionSpec) -> tuple[Array, Array, Indices]:
    """The best scores of a level, whatever their class: (scores, boxes, classes)."""
    every = scores.ravel()
    above = np.nonzero(every > spec.score_threshold)[0]
    chosen = above[np.argsort(-every[above], kind="stable")[: spec.candidates]]
    return every[chosen], boxes[chosen // spec.classes], chosen % spec.classes


def _best_of_classes(scores: Array, boxes: Array, spec: DetectionSpec) -> tuple[Array, Array, Indices]:
    """The best scores of each class but the background, number 0."""
    chosen, classes = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for index in range(1, spec.classes):
        above = np.nonzero(scores[:, index] > spec.score_threshold)[0]
        best = above[np.argsort(-scores[above, index], kind="stable")[: spec.candidates]]
        chosen.append(best)
        classes.append(np.full(len(best), index, np.int64))
    rows, of = np.concatenate(chosen), np.concatenate(classes)
    return scores[rows, of], boxes[rows], of


def _rows(values: Array, last: int) -> Array:
    channels, height, width = values.shape
    return values.reshape(channels // last, last, height, width).transpose(2, 3, 0, 1).reshape(-1, last)


def _softmax(values: Array) -> Array:
    raised = np.exp(values - values.max(1, keepdims=True))
    return np.asarray(raised / raised.sum(1, keepdims=True), np.float32)


def _sigmoid(values: Array) -> Array:
    # exp of a large negative number is 0, of a large positive one infinity, and 1/∞ is 0: both are right.
    with np.errstate(over="ignore"):
        return np.asarray(1 / (1 + np.exp(-values)), np.float32)
