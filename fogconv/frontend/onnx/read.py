"""read: convert an ONNX model to a LayerGraph, for inputs of a fixed size."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx

from fogconv.errors import ModelError, quoted
from fogconv.frontend.grouping import Ends, finished
from fogconv.frontend.onnx.host_ops import host_layer
from fogconv.frontend.onnx.model_file import ModelFile, read_model
from fogconv.frontend.onnx.rules import RULES
from fogconv.frontend.onnx.rules.quantization import on_bytes
from fogconv.frontend.onnx.translate import Translator
from fogconv.frontend.quantized import absorb
from fogconv.ir.graph import LayerGraph, Port, Structure


def read(
    path: str | Path,
    *,
    size: tuple[int, int] | None = None,
    batch: int = 1,
    shapes: Mapping[str | int, tuple[int, ...]] | None = None,
) -> LayerGraph:
    """The LayerGraph of an ``.onnx`` file. ``size`` is (H, W) in pixels, where it is left open; ``shapes`` are those
    of further inputs, by name or number.

    Raises ModelError for a file that can't be read, or a model that fogconv can't run.
    """
    return graph_of(read_model(path, size=size, batch=batch, shapes=shapes), Path(path).stem)


def graph_of(model: ModelFile, name: str) -> LayerGraph:
    """See `read`."""
    translator = Translator(model.shape[0], RULES, model, on_bytes)
    translator.walk()
    outputs = tuple(_port(translator, result, name) for result in model.outputs)
    structure: Structure = 0 if len(outputs) == 1 else tuple(range(len(outputs)))
    ends = Ends(tuple(translator.entries), outputs, model.outputs, structure)
    info = {"onnx": str(onnx.__version__)}
    graph = finished(name, translator, lambda group: host_layer(group, translator), ends, np.float32, info)
    return absorb.on_bytes(graph, lambda conv: translator.dequantized.of(graph.weights[conv.weight]))


def _port(translator: Translator, result: str, name: str) -> Port:
    if result not in translator.values:
        raise ModelError(f"{name}: nothing makes its output {quoted(result)}")
    if translator.const(result) is not None:
        raise ModelError(f"{name}: its output {quoted(result)} is a constant")
    shape = translator.shape(result)
    if shape is not None and 0 in shape:
        raise ModelError(f"{name}: its output {quoted(result)}, of shape {shape}, is empty")
    translator.unpad(result)
    return translator.result(result, result, shape)
