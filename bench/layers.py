"""The convolutions of a torchvision network, by running it once with hooks."""

from __future__ import annotations

from collections import Counter
from functools import cache
from types import ModuleType
from typing import Any

import torch

from fogconv.ir.geometry import ConvSpec

INPUT_SIZE = {"inception_v3": 299}
"""Height and width where they are not 224."""


@cache
def torchvision_models() -> ModuleType:
    """torchvision.models, also where its compiled operators don't match the installed torch."""
    try:
        import torchvision.models as models
    except RuntimeError:
        library = torch.library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        import torchvision.models as models
    return models


def network(name: str) -> Any:
    """The network in evaluation mode, with weights as torch initialises them."""
    arguments: dict[str, Any] = {"aux_logits": False, "init_weights": False} if name == "inception_v3" else {}
    return torchvision_models().get_model(name, weights=None, **arguments).eval()


def conv_specs(name: str) -> Counter[ConvSpec]:
    """The distinct convolutions of a network in the order of their first use, and how often each occurs."""
    net = network(name)
    found: Counter[ConvSpec] = Counter()

    def hook(module: torch.nn.Conv2d, inputs: tuple[torch.Tensor], _: torch.Tensor) -> None:
        _, channels, height, width = inputs[0].shape
        rows, columns = (int(n) for n in module.padding)
        found[
            ConvSpec(
                channels,
                module.out_channels,
                height,
                width,
                (module.kernel_size[0], module.kernel_size[1]),
                (module.stride[0], module.stride[1]),
                (rows, rows, columns, columns),
                (module.dilation[0], module.dilation[1]),
                module.groups,
            )
        ] += 1

    for module in net.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(hook)
    size = INPUT_SIZE.get(name, 224)
    with torch.inference_mode():
        net(torch.zeros(1, 3, size, size))
    return found


def label(spec: ConvSpec) -> str:
    """A short name: 64x56x56-64k3x3s1, with g for groups."""
    kernel = "x".join(map(str, spec.kernel))
    groups = f"g{spec.groups}" if spec.groups > 1 else ""
    return f"{spec.in_channels}x{spec.height}x{spec.width}-{spec.out_channels}k{kernel}s{spec.stride[0]}{groups}"
