"""Payloads in torch: a region (N, C, h, w) as the elements of a message, in the order of `fogconv.kernels.maps.wire`."""

from __future__ import annotations

import torch

from fogconv.ir.geometry import BLOCK

Tensor = torch.Tensor


def flat(region: Tensor) -> Tensor:
    """(N, C, h, w) → (N·C·h·w,): for each image whole groups of 16 channels pixel by pixel, then the channels left."""
    batch, channels, height, width = region.shape
    whole = channels // BLOCK * BLOCK
    parts = []
    if whole:
        groups = region[:, :whole].reshape(batch, whole // BLOCK, BLOCK, height, width)
        parts.append(groups.permute(0, 1, 3, 4, 2).reshape(batch, -1))
    if channels > whole:
        parts.append(region[:, whole:].permute(0, 2, 3, 1).reshape(batch, -1))
    return torch.cat(parts, 1).reshape(-1) if parts else region.reshape(-1)


def write(payload: Tensor, region: Tensor, *, add: bool) -> None:
    """The other way round: into a region, or added to it."""
    batch, channels, height, width = region.shape
    whole = channels // BLOCK * BLOCK
    images = payload.reshape(batch, channels * height * width)
    split = whole * height * width
    groups = images[:, :split].reshape(batch, whole // BLOCK, height, width, BLOCK).permute(0, 1, 4, 2, 3)
    rest = images[:, split:].reshape(batch, height, width, channels - whole).permute(0, 3, 1, 2)
    for there, values in (
        (region[:, :whole], groups.reshape(batch, whole, height, width)),
        (region[:, whole:], rest),
    ):
        there.copy_(there + values if add else values)
