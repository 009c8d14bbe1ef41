"""The options for the model: which one, its weights, and how pictures become its input."""

from __future__ import annotations

from typing import Annotated

import typer

from fogconv.cli.options.panels import HOW, WHAT
from fogconv.cli.options.values import MODEL, WEIGHTS, Numbers, number, ratios
from fogconv.values import table

ModelArgument = Annotated[
    str,
    typer.Argument(parser=MODEL, help="A torchvision model's name, efficientnet_lite0, or a .pt2 or .onnx file."),
]
RunnableModelArgument = Annotated[
    str,
    typer.Argument(
        parser=MODEL,
        help="A torchvision model's name, efficientnet_lite0, a name of `fogconv models list`, or a .pt2 or .onnx file.",
    ),
]
WeightsOption = Annotated[
    str,
    typer.Option(
        parser=WEIGHTS, help="Weights to use: pretrained, random, or the path of a state_dict.", rich_help_panel=WHAT
    ),
]

_TRUST = "Let a .pt2 file run code when it is loaded, because you trust its maker."

TrustOption = Annotated[bool, typer.Option("--trust", help=_TRUST, rich_help_panel=WHAT)]
PlannedTrustOption = Annotated[bool, typer.Option("--trust", help=_TRUST, rich_help_panel=HOW)]
"""Where the model is planned with, not run."""
BatchOption = Annotated[
    int,
    typer.Option(parser=number("count", table.BATCH), help="Number of images at once.", rich_help_panel=WHAT),
]
MeanOption = Annotated[
    Numbers | None,
    typer.Option(
        parser=ratios(table.MEAN, "0.485,0.456,0.406", 3),
        help="Mean per channel, such as 0.485,0.456,0.406. For .pt2 and .onnx files.",
        rich_help_panel=WHAT,
    ),
]
StdOption = Annotated[
    Numbers | None,
    typer.Option(
        parser=ratios(table.DEVIATION, "0.229,0.224,0.225", 3),
        help="Standard deviation per channel, such as 0.229,0.224,0.225. For .pt2 and .onnx files.",
        rich_help_panel=WHAT,
    ),
]


def size_help(usual: str = "") -> str:
    """The help of an option for the size of pictures; ``usual``: which it is by default."""
    text = "Size of the pictures in pixels, such as 224 or 960x1280 (height, width)"
    return f"{text}; by default {usual}." if usual else f"{text}."
