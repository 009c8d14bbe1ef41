"""What quantising a model costs: a line for each layer, and the end result."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, TextIO

from rich.console import Console

from fogconv.cli.output.ellipsis import Name
from fogconv.cli.output.tables.table import figures_table

if TYPE_CHECKING:
    from fogconv.quantization.quantize import Quantized


def print_quantization(found: Quantized, *, out: TextIO) -> None:
    """Signal to noise in dB: of each layer's own error, and of all before it, too."""
    from fogconv.quantization.quantize import decibels

    table = figures_table("layer", "precision", "own dB", "whole dB", left=("precision",))
    for layer in found.layers:
        whole = "" if layer.whole is None else _figure(decibels(layer.whole))
        table.add_row(Name(layer.name), layer.precision, _figure(layer.own_db), whole)
    console = Console(file=out)
    console.print(table)
    pictures = "the calibration picture" if found.pictures == 1 else f"{found.pictures} calibration pictures"
    console.print(
        f"output: {_figure(decibels(found.noise))} dB signal to noise, the greatest value is the same one for "
        f"{100 * found.agreement:.0f} % of {pictures}; {100 * found.share:.1f} % of the multiply-adds in int8",
        markup=False,
        highlight=False,
    )


def quantization_json(found: Quantized) -> dict[str, Any]:
    """The same figures; dB of nothing lost are null."""
    from fogconv.quantization.quantize import decibels

    def figure(noise: float | None) -> float | None:
        db = math.inf if noise is None else decibels(noise)
        return db if math.isfinite(db) else None

    return {
        "layers": [
            {"name": each.name, "precision": each.precision, "own_db": figure(each.own), "whole_db": figure(each.whole)}
            for each in found.layers
        ],
        "output_db": figure(found.noise),
        "agreement": found.agreement,
        "pictures": found.pictures,
        "int8_share": found.share,
    }


def _figure(decibels: float) -> str:
    return f"{decibels:.1f}" if math.isfinite(decibels) else "∞"
