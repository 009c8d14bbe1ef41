"""Write fogconv/speedup/data/convs.json: the conv layers of common nets, so that the calculator needs no torch.

    python -m bench.conv_shapes

The nets are built without weights (torch's meta device) and run once; every conv2d is recorded with the module that
called it.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from efficientnet_lite_pytorch import EfficientNet
from torch import nn
from torch.overrides import TorchFunctionMode

from fogconv.zoo.models import torchvision_models

# fmt: off
TORCHVISION = [
    "alexnet", "vgg11", "vgg13", "vgg16", "vgg19", "resnet18", "resnet34", "resnet50", "resnet101", "resnet152",
    "resnext50_32x4d", "wide_resnet50_2", "densenet121", "googlenet", "inception_v3", "mobilenet_v2",
    "mobilenet_v3_small", "mobilenet_v3_large", "mnasnet0_5", "mnasnet1_0", "shufflenet_v2_x0_5", "shufflenet_v2_x1_0",
    "squeezenet1_0", "squeezenet1_1", "efficientnet_b0", "efficientnet_b4", "regnet_y_400mf", "convnext_tiny",
]
# fmt: on
SIZES = {"inception_v3": 299, "efficientnet_b4": 380}
TARGET = Path(__file__).parent.parent / "fogconv" / "speedup" / "data" / "convs.json"


class _Watch(TorchFunctionMode):
    """Records every conv2d: [name, c, f, H, W, [K_h, K_w], stride, padding (top, bottom, left, right), dilation,
    groups]."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.rows: list[list[Any]] = []
        self._path: list[tuple[str, torch.Size]] = []
        for name, module in model.named_modules():
            module.register_forward_pre_hook(self._enter(name))
            module.register_forward_hook(self._leave)

    def _enter(self, name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def enter(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            self._path.append((name, inputs[0].shape if isinstance(inputs[0], torch.Tensor) else torch.Size()))

        return enter

    def _leave(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        self._path.pop()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in (torch.conv2d, nn.functional.conv2d):
            self._note(*args, **kwargs)
        return func(*args, **kwargs)

    def _note(
        self, x: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1
    ) -> None:
        (name, shape), (ph, pw) = self._path[-1], _pair(padding)
        # A module that pads before it convolves (TensorFlow's "same") counts with its own input and that padding.
        height, width = shape[2:]
        top, left = (x.shape[2] - height) // 2, (x.shape[3] - width) // 2
        bottom, right = x.shape[2] - height - top, x.shape[3] - width - left
        pads = [ph + top, ph + bottom, pw + left, pw + right]
        kernel = list(weight.shape[2:])
        self.rows.append(
            [name, x.shape[1], weight.shape[0], height, width, kernel, _pair(stride), pads, _pair(dilation), groups]
        )


def _pair(value: Any) -> list[int]:
    return [int(value)] * 2 if isinstance(value, int) else [int(v) for v in value]


def rows_of(model: nn.Module, size: int) -> list[list[Any]]:
    watch = _Watch(model.eval())
    with torch.no_grad(), ExitStack() as stack:
        stack.enter_context(watch)
        model(torch.empty(1, 3, size, size, device="meta"))
    return watch.rows


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None).parse_args()
    models = torchvision_models()
    nets = {}
    for name in TORCHVISION:
        size = SIZES.get(name, 224)
        # regnet computes its widths with tensors, which the meta device can't convert to numbers.
        with torch.device("cpu" if name.startswith("regnet") else "meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            model = models.get_model(name, weights=None)
        nets[name] = {"size": size, "convs": rows_of(model.to("meta"), size)}
    with torch.device("meta"):
        nets["efficientnet_lite0"] = {"size": 224, "convs": rows_of(EfficientNet.from_name("efficientnet-lite0"), 224)}
    lines = []
    for name, net in sorted(nets.items()):
        convs = ",\n    ".join(json.dumps(row, separators=(",", ":")) for row in net["convs"])
        lines.append(f'  "{name}": {{"size": {net["size"]}, "convs": [\n    {convs}]}}')
    about = f"torchvision {version('torchvision')}, efficientnet-lite-pytorch 0.1.0; python -m bench.conv_shapes"
    TARGET.parent.mkdir(exist_ok=True)
    TARGET.write_text('{"source": ' + json.dumps(about) + ',\n "nets": {\n' + ",\n".join(lines) + "\n}}\n")
    print(f"{TARGET.name}: {len(nets)} nets, {sum(len(net['convs']) for net in nets.values())} convs")


if __name__ == "__main__":
    main()
