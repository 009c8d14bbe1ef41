"""A synthetic net for rehearsals: it measures the cost of messages between convs without using a tested net."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from fogconv.frontend.torch.export import export
from fogconv.ir.graph import LayerGraph


def made_up(size: int, channels: Sequence[int]) -> LayerGraph:
    """A chain of convs, 3×3 and 1×1 in turns, on an image of ``size`` rows and columns; one stage for each of ``channels``,
    which halves the maps of the one before."""
    layers: list[torch.nn.Module] = []
    before = 3
    torch.manual_seed(0)
    for width in channels:
        stride = 2 if layers else 1
        layers += [torch.nn.Conv2d(before, width, 3, stride, 1), torch.nn.ReLU()]
        layers += [torch.nn.Conv2d(width, 3 * width, 1), torch.nn.ReLU()]
        layers += [torch.nn.Conv2d(3 * width, width, 1), torch.nn.ReLU()]
        layers += [torch.nn.Conv2d(width, width, 3, 1, 1), torch.nn.ReLU()]
        before = width
    return export(torch.nn.Sequential(*layers).eval(), torch.zeros(1, 3, size, size), "rehearsal")
