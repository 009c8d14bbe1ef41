"""Seeded weights: a network that was never trained, but in which every layer matters, and rounding errors do not grow.

torchvision's own initialisation is unsuitable for tests: with heads of zeros, layer scales of 1e-6, and batch norms whose
statistics match no data, whole layers have no effect on the output. Here activations keep their size from layer to layer.

A batch norm before an activation makes errors grow with depth: the activation turns part of what distinguishes two inputs
into a mean that the next norm subtracts, and the rest is stretched to unit variance again, errors included (Yang et al.
2019, A Mean Field Theory of Batch Normalization). For ReLU of N(b, 1) they grow by sqrt(P(z > 0) / Var(relu(z))) a layer:
by 1.21 for b = 0, which is 10⁴ after 50 layers, and by 1.06 for b = 1. So batch norms shift by 1; a sixth of the values is
still cut off.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

SHIFT = 1.0
"""The mean of batch norms' biases, in standard deviations of what they make."""
LEAST_VARIANCE = 0.05
"""Of a layer's mean: a channel that varies less on the seeded images would be stretched without bounds on others."""
SETTLING_SIDE = 224
"""Statistics come from images of so many pixels a side at most: larger ones cost more and say the same."""


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
    height, width = (min(side, SETTLING_SIDE) for side in size)
    settle_batch_norm(model, noise_images(4, (height, width), seed=seed))


def _fill(module: nn.Module, generator: torch.Generator) -> None:
    if isinstance(module, nn.Conv2d | nn.Linear):
        fan_in = module.weight[0].numel()
        module.weight.normal_(0.0, math.sqrt(2.0 / fan_in), generator=generator)
        if module.bias is not None:
            module.bias.normal_(0.0, 0.1, generator=generator)
    elif isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d) and module.affine:
        module.weight.uniform_(0.8, 1.2, generator=generator)
        module.bias.normal_(SHIFT, 0.1, generator=generator)


def noise_images(count: int, size: tuple[int, int], *, seed: int = 0) -> Tensor:
    """(count, 3, H, W) of patches with noise, with values in the range of normalised photographs."""
    generator = torch.Generator().manual_seed(seed + 1)
    patches = torch.randn(count, 3, 7, 7, generator=generator).double()  # float32 would round otherwise on one thread
    grain = torch.randn(count, 3, *size, generator=generator)
    return F.interpolate(patches, size=size, mode="bilinear", align_corners=False).float() + 0.3 * grain


def settle_batch_norm(model: nn.Module, images: Tensor) -> None:
    """Set every batch norm's running mean and variance to those of one batch, in the order of the forward pass.

    Each norm has its statistics before it computes. They are summed in float64, so that the number of threads, which
    determines the order of the sum, does not change them.
    """
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    if not norms:
        return
    hooks = [norm.register_forward_pre_hook(_settle) for norm in norms]
    before, threads = model.training, torch.get_num_threads()
    model.eval()
    torch.set_num_threads(max(2, threads))  # a single thread adds up some maps in another order than all other numbers do
    try:
        with torch.no_grad():
            model(images)
    finally:
        torch.set_num_threads(threads)
        model.train(before)
        for hook in hooks:
            hook.remove()


def _settle(norm: nn.Module, inputs: tuple[Any, ...]) -> None:
    assert isinstance(norm, _BatchNorm)
    (x,) = inputs
    values: Tensor = x.transpose(0, 1).flatten(1).double()
    variance, mean = torch.var_mean(values, 1, correction=min(1, values.shape[1] - 1))
    if norm.running_mean is not None and norm.running_var is not None:
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(variance.clamp_min(LEAST_VARIANCE * float(variance.mean())))
