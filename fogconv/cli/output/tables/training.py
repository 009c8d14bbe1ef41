"""The output of `fogconv simulate --train`: one step's convs, layer by layer."""

from __future__ import annotations

from typing import TextIO

from rich.console import Console

from fogconv.analysis.figures import milliseconds
from fogconv.analysis.training.step import LayerStep, TrainingStep
from fogconv.cli.output.ellipsis import Name
from fogconv.cli.output.paragraph import Paragraph
from fogconv.cli.output.tables.table import figures_table
from fogconv.hardware.units import show_seconds

LEGEND = (
    "Predicted times in ms. forward, grad x, grad w: the output, the input's and the weight's gradient, on the rank that "
    "computes longest; transfers: everything else, with cutting and joining; total: all four. split: how the layer is cut "
    "and over how many ranks; home: torch does it on the master, taken to be as fast as fogconv's kernels. Other layers "
    "run in torch on the master, and are not predicted."
)


def print_training(model: str, step: TrainingStep, described: str, *, out: TextIO, width: int | None = None) -> None:
    """``described``: a sentence about the devices and links. ``width`` in columns; None: the terminal's."""
    console = Console(file=out, highlight=False, width=width)
    images = f"{step.batch} image{'s' * (step.batch > 1)}"
    console.print(Paragraph(f"{model}, a training step of {images}. {described}"))
    console.print(Paragraph(LEGEND, style="dim"))
    table = figures_table("layer", "c→f, h×w", "split", "forward", "grad x", "grad w", "transfers", "total")
    for layer in step.layers:
        spec = layer.spec
        shape = f"{spec.in_channels}→{spec.out_channels} {spec.out_height}×{spec.out_width}"
        table.add_row(Name(layer.name), shape, layer.split or "home", *_cells(layer))
    table.add_row("all", "", "", *_cells(step.total), style="bold")
    console.print(table)
    shared = sum(layer.split is not None for layer in step.layers)
    console.print(
        Paragraph(f"predicted {show_seconds(step.total.total_s)} per step; {shared} of {len(step.layers)} convs distributed")
    )


def _cells(layer: LayerStep) -> tuple[str, ...]:
    terms = (layer.forward_s, layer.input_s or None, layer.weight_s, layer.transfers_s or None, layer.total_s)
    return tuple(milliseconds(term) for term in terms)
