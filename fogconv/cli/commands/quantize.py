"""``fogconv quantize``: a model in fp32 becomes one of 8-bit maps and weights, as an ONNX file."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fogconv.cli.options.model import MeanOption, ModelArgument, StdOption, TrustOption, WeightsOption, size_help
from fogconv.cli.options.output import JsonOption
from fogconv.cli.options.panels import HOW, OUTPUT, WHAT
from fogconv.cli.options.values import PICTURES, SIZE, Pair, number, output
from fogconv.cli.output.written import say_written
from fogconv.cli.process.exit_codes import sentences
from fogconv.errors import DependencyError, InputError, with_extra
from fogconv.values import table

if TYPE_CHECKING:
    from fogconv.quantization.quantize import Quantized


class Ranges(StrEnum):
    MSE = "mse"
    PERCENTILE = "percentile"
    MINMAX = "minmax"


class Precision(StrEnum):
    INT8 = "int8"
    FP16 = "fp16"
    BF16 = "bf16"


def quantize(
    model: ModelArgument,
    calibrate: Annotated[
        list[str] | None,
        typer.Option(
            "--calibrate",
            parser=PICTURES,
            help="Pictures, or a folder of them, with which to measure the values that 8 bits must hold; may be repeated. A "
            "few dozen that are like those to come are enough.",
            rich_help_panel=WHAT,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", parser=output(".onnx"), help="The ONNX file to write.", rich_help_panel=OUTPUT),
    ] = None,
    weights: WeightsOption = "pretrained",
    trust: TrustOption = False,
    size: Annotated[
        Pair | None,
        typer.Option(
            parser=SIZE,
            help=size_help(),
            rich_help_panel=WHAT,
        ),
    ] = None,
    mean: MeanOption = None,
    std: StdOption = None,
    ranges: Annotated[
        Ranges,
        typer.Option(
            help="The range that a map's bytes cover: mse: with the least error; percentile: all but 0.01 % at either end; "
            "minmax: all.",
            rich_help_panel=HOW,
        ),
    ] = Ranges.MSE,
    tolerance: Annotated[
        float | None,
        typer.Option(
            parser=number("ratio", table.TOLERANCE),
            help="The most noise of a layer's own, as a factor of its signal, by default 0.3 (10 dB); layers above it "
            "stay in fp32, and so do a few depthwise convolutions that spoil the answer, with at most 5 % of the "
            "multiply-adds.",
            rich_help_panel=HOW,
        ),
    ] = None,
    precision: Annotated[
        Precision,
        typer.Option(
            help="Precision of the file: int8. No file is written in 16 bits: fp16 and bf16 need no pictures and no file, "
            "see `fogconv run --precision`.",
            rich_help_panel=HOW,
        ),
    ] = Precision.INT8,
    threads: Annotated[
        int,
        typer.Option(parser=number("count", table.THREADS), help="Number of threads; 0: all cores.", rich_help_panel=HOW),
    ] = 0,
    as_json: JsonOption = False,
) -> None:
    """Turn a model in fp32 into one of 8-bit maps and weights, and show what each layer loses by it.

    The result is an ONNX file with QuantizeLinear and DequantizeLinear (QDQ), which fogconv runs in 8 bits, and other
    runtimes, too. Weights have a scale per output channel, maps one each.
    """
    with sentences("fogconv quantize"):
        if precision is not Precision.INT8:
            raise InputError(
                f"no file is written in {precision.value}, which needs none: keep the model as it is, and add "
                f"--precision {precision.value} to `fogconv run`"
            )
        if not calibrate:
            raise InputError("quantising needs pictures to measure the model's values with: add --calibrate FOLDER")
        if out is None:
            raise InputError("say where to write the quantised model: --out MODEL.onnx")
        from fogconv.cli.calibration_pictures import batches
        from fogconv.cli.output.json_text import json_text
        from fogconv.cli.output.tables.quantization import print_quantization, quantization_json
        from fogconv.cluster.worker.process import cores
        from fogconv.frontend.network import open_network
        from fogconv.quantization.quantize import TOLERANCE, quantized
        from fogconv.zoo.model_request import ModelRequest

        request = ModelRequest(model, weights, None if size is None else size.pixels, trust)
        network = open_network(request, mean=None if mean is None else mean.each, std=None if std is None else std.each)
        found = quantized(
            network.graph,
            batches(calibrate, network.card, network.graph),
            method=ranges.value,
            tolerance=TOLERANCE if tolerance is None else tolerance,
            threads=threads or cores(),
        )
        _write(found, out, network.card.weights_origin)
        if as_json:
            print(json_text(quantization_json(found) | {"out": str(out)}))
        else:
            print_quantization(found, out=sys.stdout)
        say_written(out)


def _write(found: Quantized, out: Path, weights_origin: str) -> None:
    try:
        from fogconv.frontend.onnx.write import write
    except ImportError as error:
        raise DependencyError(f"onnx is not installed: {with_extra('onnx')}") from error
    try:
        write(found.marked.graph, found.marked.integers, out, weights_origin)
    except OSError as error:
        raise InputError(f"--out {out}: can't be written: {error.strerror or error}") from error


if __name__ == "__main__":
    typer.run(quantize)
