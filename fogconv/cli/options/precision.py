"""The options of precision, shared by all commands that have them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from fogconv.cli.options.choices import choice
from fogconv.cli.options.panels import HOW
from fogconv.cli.options.values import PICTURES

if TYPE_CHECKING:
    PrecisionName = str
else:
    PrecisionName = choice("PrecisionName", ("fp32", "fp16", "bf16", "int8", "auto"))

PrecisionOption = Annotated[
    PrecisionName,
    typer.Option(
        "--precision",
        help="What is computed with: fp32, the model as it is, without any loss; fp16, bf16: maps and weights "
        "rounded to 16 bits, sums in fp32 (bf16 loses more; less with --calibrate); int8: 8-bit maps and weights wherever "
        "that costs little accuracy; auto: only where it costs next to none. int8 and auto need --calibrate for a model in "
        "fp32.",
        rich_help_panel=HOW,
    ),
]
PlannedPrecisionOption = Annotated[
    PrecisionName,
    typer.Option(
        "--precision",
        help="Plan for maps and weights in fp32, in 16 bits (fp16, bf16), or in 8 bits wherever workers can (int8, auto).",
        rich_help_panel=HOW,
    ),
]
CalibrateOption = Annotated[
    list[str] | None,
    typer.Option(
        "--calibrate",
        parser=PICTURES,
        help="Pictures, or a folder of them, with which to measure the values that 8 bits must hold, and for which weights "
        "of 16 bits are rounded; may be repeated.",
        rich_help_panel=HOW,
    ),
]
FP32: PrecisionName = PrecisionName("fp32")
