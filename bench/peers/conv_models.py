"""Models of one conv: several of it, with weights of their own, in the forms that the runtimes read.

    picture ── 1×1 conv ──┬── conv 1, activation ── one pixel ──┐
                          ├── conv 2, activation ── one pixel ──┼── answer
                          ⋮                                     ⋮

The 1×1 conv makes the input as in a network a conv makes it, in the layout that the runtime likes; a first layer, of up to
4 channels, reads the picture itself. A max pooling with a kernel of one pixel and a step past the map's edge takes a pixel
of the output, without a conversion of the whole map; each has a step of its own, so that none is merged with another.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import nn

from bench.peers import model_files
from fogconv.errors import InputError
from fogconv.frontend import zoo_graphs
from fogconv.ir.geometry import ConvSpec
from fogconv.ir.layers import Conv
from fogconv.kernels.conv.tuning_table import key

FIRST = 4
"""Up to so many channels a conv reads the picture itself."""
PICTURE_CHANNELS = 3


@dataclass(frozen=True, slots=True)
class Case:
    """A conv with its activation as a network has it: "relu", "relu6" or None."""

    spec: ConvSpec
    activation: str | None

    @property
    def label(self) -> str:
        """Such as 64x56x56-64k3x3s1p1+relu: all that tells it from other convs."""
        return key(self.spec) + (f"+{self.activation}" if self.activation else "")


def distinct(net: str) -> Counter[Case]:
    """The convs of a network in the order of their first use, and how often each occurs; fully connected layers and
    residuals are left out. Raises InputError where there is no such network."""
    found: Counter[Case] = Counter()
    for layer in zoo_graphs.graph(net).layers:
        if isinstance(layer, Conv) and not layer.linear:
            if layer.activation not in ACTIVATIONS:
                raise InputError(f"{net} has the activation {layer.activation}; compared are convs with {_all()}")
            found[Case(layer.spec, layer.activation)] += 1
    return found


def _all() -> str:
    return ", ".join(name or "none" for name in ACTIVATIONS)


ACTIVATIONS: dict[str | None, type[nn.Module]] = {None: nn.Identity, "relu": nn.ReLU, "relu6": nn.ReLU6}
NCNN_ACTIVATIONS = {None: "", "relu": " 9=1", "relu6": " 9=3 -23310=2,0.000000e+00,6.000000e+00"}


class Bank(nn.Module):
    """``convs`` of one case, and ``pixels`` pixels of their outputs, as many of each. The weights are seeded."""

    def __init__(self, case: Case, convs: int, pixels: int) -> None:
        super().__init__()
        spec, generator = case.spec, torch.Generator().manual_seed(0)
        self.case = case
        reads_picture = spec.in_channels <= FIRST
        self.picture = (1, spec.in_channels if reads_picture else PICTURE_CHANNELS, spec.height, spec.width)
        self.entry = nn.Identity() if reads_picture else nn.Conv2d(PICTURE_CHANNELS, spec.in_channels, 1)
        top, bottom, left, right = spec.padding
        even = top == bottom and left == right
        self.pad = nn.Identity() if even else nn.ZeroPad2d((left, right, top, bottom))
        self.convs = nn.ModuleList(self._conv((top, left) if even else (0, 0)) for _ in range(convs))
        self.activation = ACTIVATIONS[case.activation]()
        height, width = spec.out_height, spec.out_width
        self.pools = nn.ModuleList(nn.MaxPool2d(1, (height + step, width + step)) for step in range(pixels))
        for parameter in self.parameters():
            fan_in = parameter[0].numel() if parameter.dim() > 1 else 1
            parameter.data = torch.randn(parameter.shape, generator=generator) * (2 / fan_in) ** 0.5
        self.eval().requires_grad_(False)

    def _conv(self, padding: tuple[int, int]) -> nn.Conv2d:
        s = self.case.spec
        return nn.Conv2d(s.in_channels, s.out_channels, s.kernel, s.stride, padding, s.dilation, s.groups)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pad(self.entry(x))
        pixels = []
        for conv, pools in zip(self.convs, self.pools_by_conv(), strict=True):
            # In this order also in the files: a map is read as soon as it was made, and its memory serves for the next one.
            made = self.activation(conv(x))
            pixels += [self.pools[i](made) for i in pools]
        return torch.cat(pixels, dim=1)

    def pools_by_conv(self) -> list[range]:
        """The numbers of the pools that read each conv's output."""
        each = len(self.pools) // len(self.convs)
        return [range(first, first + each) for first in range(0, len(self.pools), each)]


def write(case: Case, convs: int, pixels: int, folder: Path, forms: Collection[str]) -> dict[str, str]:
    """Write these forms in fp32, with a picture and the answer in float64, into ``folder``, which is made. The reasons why
    some could not be written, by the form's name."""
    folder.mkdir()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        bank = Bank(case, convs, pixels)
        x = torch.randn(bank.picture, generator=torch.Generator().manual_seed(1))
        np.save(folder / model_files.INPUT, x.numpy())
        np.save(folder / model_files.ANSWER, bank.double()(x.double()).numpy())
        missing = model_files.write_fp32(bank.float(), x, folder, set(forms) - {model_files.NCNN})
    _write_ncnn(bank, folder / model_files.NCNN)
    return missing


def _write_ncnn(bank: Bank, file: Path) -> None:
    """By hand, because a conv is a line of text and its weights: it then runs also where pnnx is not installed."""
    lines, count, case, source = ["Input in0 0 1 in0"], len(bank.convs), bank.case, "in0"
    with file.with_suffix(".bin").open("wb") as weights:
        if isinstance(bank.entry, nn.Conv2d):
            lines.append(_ncnn_conv("entry", source, "x", bank.entry, (0, 0, 0, 0), None, weights))
            source = "x"
        lines.append(_split("spread", source, [f"x{i}" for i in range(count)]))
        for i, (conv, pools) in enumerate(zip(bank.convs, bank.pools_by_conv(), strict=True)):
            assert isinstance(conv, nn.Conv2d)
            lines.append(_ncnn_conv(f"conv{i}", f"x{i}", f"y{i}", conv, case.spec.padding, case.activation, weights))
            lines.append(_split(f"spread{i}", f"y{i}", [f"z{pool}" for pool in pools]))
            for pool in pools:
                down, right = bank.pools[pool].stride  # type: ignore[misc]
                lines.append(f"Pooling pool{pool} 1 1 z{pool} p{pool} 0=0 1=1 11=1 2={right} 12={down} 5=1")
    lines.append(f"Concat cat {len(bank.pools)} 1 {' '.join(f'p{i}' for i in range(len(bank.pools)))} out0 0=0")
    blobs = sum(int(line.split()[3]) for line in lines)
    file.write_text("\n".join(["7767517", f"{len(lines)} {blobs}", *lines]) + "\n")


def _split(name: str, source: str, targets: list[str]) -> str:
    return f"Split {name} 1 {len(targets)} {source} {' '.join(targets)}"


def _ncnn_conv(
    name: str,
    source: str,
    target: str,
    conv: nn.Conv2d,
    padding: tuple[int, ...],
    activation: str | None,
    weights: BinaryIO,
) -> str:
    """Its line; its weights, raw after a tag of four zero bytes, and its bias are written to ``weights``."""
    numbers: list[Any] = [conv.weight.numpy(), conv.bias.numpy()]  # type: ignore[union-attr]
    weights.write(bytes(4) + b"".join(np.ascontiguousarray(each, np.float32).tobytes() for each in numbers))
    (kh, kw), (dh, dw), (sh, sw), (top, bottom, left, right) = conv.kernel_size, conv.dilation, conv.stride, padding
    kind, groups = ("Convolution", "") if conv.groups == 1 else ("ConvolutionDepthWise", f" 7={conv.groups}")
    shape = f"0={conv.out_channels} 1={kw} 11={kh} 2={dw} 12={dh} 3={sw} 13={sh} 4={left} 15={right} 14={top} 16={bottom}"
    return f"{kind} {name} 1 1 {source} {target} {shape} 5=1 6={numbers[0].size}{groups}{NCNN_ACTIVATIONS[activation]}"
