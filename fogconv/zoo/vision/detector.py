"""Detector: a torchvision detector as a network for the cluster: backbone and heads, without anchors and boxes.

torchvision's own modules scale pictures before and make boxes after; here they are left out (`fogconv.zoo.detection` has
their figures), and each level's maps stay maps. The parameters have torchvision's names, so that its weights fit.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class Detector(nn.Module):
    """``forward`` gives the outputs of `DetectionSpec.outputs` by name, for pictures (N, 3, H, W) that are normalised."""

    def __init__(self, whole: Any) -> None:
        super().__init__()
        self.backbone, self.head = whole.backbone, whole.head

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = self.backbone(x)
        levels = list(features.values()) if isinstance(features, dict) else [features]
        classes, boxes = self.head.classification_head, self.head.regression_head
        if hasattr(classes, "module_list"):  # SSD: layers of its own for each level
            return _named(
                cls_logits=[layer(level) for layer, level in zip(classes.module_list, levels, strict=True)],
                bbox_regression=[layer(level) for layer, level in zip(boxes.module_list, levels, strict=True)],
            )
        logits = [classes.cls_logits(classes.conv(level)) for level in levels]
        found = [boxes.conv(level) for level in levels]
        if not hasattr(boxes, "bbox_ctrness"):  # RetinaNet
            return _named(cls_logits=logits, bbox_regression=[boxes.bbox_reg(level) for level in found])
        return _named(  # FCOS, whose distances are not negative
            cls_logits=logits,
            bbox_regression=[torch.relu(boxes.bbox_reg(level)) for level in found],
            bbox_ctrness=[boxes.bbox_ctrness(level) for level in found],
        )


def _named(**sorts: list[Tensor]) -> dict[str, Tensor]:
    return {f"{sort}.{level}": value for sort, levels in sorts.items() for level, value in enumerate(levels)}
