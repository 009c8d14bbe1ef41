"""Seeded weights: a network that was never trained, but in which every layer matters.

torchvision's own initialisation is unsuitable for tests: with heads of zeros, layer scales of 1e-6, and batch norms whose
statistics match no data, whole layers have no effect on the output. Here activations keep their size from layer to layer.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn


def seed_weights(model: nn.Module, size: tuple[int, int], *, seed: int = 0) -> None:
    """Fill the parameters in place, then set batch norm's statistics from one batch of four images of ``size`` (H, W).

    Convs and linear layers are normal with variance 2/fan_in (He et al. 2015, eq. 10) and small biases; layer scales
    are 1. Parameters of other kinds (position tables, class tokens) stay as they are.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            _fill(module, generator)
        for name, parameter in model.named_parameters():
            if "layer_scale" in name:
                parameter.fill_(1.0)
    settle_batch_norm(model, noise_images(4, size, seed=seed))


def _fill(module: nn.Module, generator: torch.Generator) -> None:
    if isinstance(module, nn.Conv2d | nn.Linear):
        fan_in = module.weight[0].numel()
        module.weight.normal_(0.0, math.sqrt(2.0 / fan_in), generator=generator)
        if module.bias is not None:
            module.bias.normal_(0.0, 0.1, generator=generator)
    elif isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d) and module.affine:
        module.weight.uniform_(0.8, 1.2, generator=generator)
        module.bias.normal_(0.0, 0.1, generator=generator)


def noise_images(count: int, size: tuple[int, int], *, seed: int = 0) -> torch.Tensor:
    """(count, 3, H, W) of patches with noise, with values in the range of normalised photographs."""
    generator = torch.Generator().manual_seed(seed + 1)
    patches = torch.randn(count, 3, 7, 7, generator=generator)
    grain = torch.randn(count, 3, *size, generator=generator)
    return F.interpolate(patches, size=size, mode="bilinear", align_corners=False) + 0.3 * grain


def settle_batch_norm(model: nn.Module, images: torch.Tensor) -> None:
    """Set every batch norm's running mean and variance to those of one batch."""
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    if not norms:
        return
    before = [(norm.training, norm.momentum) for norm in norms]
    for norm in norms:
        norm.training, norm.momentum = True, 1.0
    try:
        with torch.no_grad():
            model(images)
    finally:
        for norm, (training, momentum) in zip(norms, before, strict=True):
            norm.training, norm.momentum = training, momentum
