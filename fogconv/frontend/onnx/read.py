"""read: convert an ONNX model to a LayerGraph, for an input of a fixed size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx

from fogconv.errors import ModelError
from fogconv.frontend.graph_builder import Ref
from fogconv.frontend.grouping import finished
from fogconv.frontend.onnx.host_ops import host_layer
from fogconv.frontend.onnx.model_file import ModelFile, read_model
from fogconv.frontend.onnx.rules import RULES
from fogconv.frontend.onnx.translate import Translator
from fogconv.ir.graph import LayerGraph


def read(path: str | Path, *, size: tuple[int, int] | None = None, batch: int = 1) -> LayerGraph:
    """The LayerGraph of an ``.onnx`` file. ``size`` is (H, W) in pixels, for a file that leaves it open.

    Raises ModelError for a file that can't be read, or a model that fogconv can't run.
    """
    return graph_of(read_model(path, size=size, batch=batch), Path(path).stem)


def graph_of(model: ModelFile, name: str) -> LayerGraph:
    """See `read`."""
    translator = Translator(model.shape[0], RULES, model)
    translator.walk()
    output, shape = _output(translator, name)
    info = {"onnx": str(onnx.__version__)}
    return finished(name, translator, lambda group: host_layer(group, translator), output, shape, np.float32, info)


def _output(translator: Translator, name: str) -> tuple[int, tuple[int, ...]]:
    result = translator.model.output
    value = translator.values.get(result)
    if isinstance(value, Ref):
        return value.tensor, value.shape
    shape, batch = translator.shape(result), translator.batch
    if value is None or not translator.is_float(result) or translator.const(result) is not None:
        raise ModelError(f"{name}: its output is missing, a constant, or not of floats (fp32)")
    if shape is None or 0 in shape:
        raise ModelError(f"{name}: its output has no fixed size, or none at all: that depends on the picture's content")
    elements = int(np.prod(shape))
    if elements % batch:
        raise ModelError(f"{name}: its output {shape} does not have one row for each of the {batch} images")
    whole = shape if len(shape) == 4 and shape[0] == batch else (batch, elements // batch, 1, 1)
    return translator.write(result, whole), shape
