"""ONNX Runtime: the one place that opens a session of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from fogconv.errors import ModelError
from fogconv.frontend.onnx.model_file import ModelFile
from fogconv.ir.arrays import Array

ERRORS_ONLY = 3
"""Its logger's level: its warnings are about its own optimisations."""


def session_of(model: bytes, threads: int = 0, *, spinning: bool = True, layouts: bool = True) -> Any:
    """A session on the CPU; 0 threads: as many as ONNX Runtime likes. ``spinning``: they wait for more work on the core.
    ``layouts``: it may bring maps into layouts of its own.

    Raises ModelError, with ONNX Runtime's reason.
    """
    options = onnxruntime.SessionOptions()
    if not spinning:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if not layouts:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.intra_op_num_threads = threads
    options.log_severity_level = ERRORS_ONLY
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # it raises a type of its own per cause
        reason = str(error).strip().splitlines()[0]
        raise ModelError(f"ONNX Runtime can't run this model: {reason}") from error


def opened_file(path: Path) -> tuple[Callable[[Array], Array], tuple[str, ...]]:
    """A file with one input and one output, for inputs of any size, and the characters that it reads, if any.

    Raises ModelError.
    """
    session = session_of(path.read_bytes())
    (entry,), (end,) = session.get_inputs(), session.get_outputs()
    characters = session.get_modelmeta().custom_metadata_map.get("character", "")

    def run(x: Array) -> Array:
        (output,) = session.run([end.name], {entry.name: np.ascontiguousarray(x)})
        return np.asarray(output)

    return run, tuple(characters.splitlines())


def in_onnx_runtime(model: ModelFile, threads: int = 0) -> Callable[[Sequence[Array]], list[Array]]:
    """The whole model, as ONNX Runtime computes it: from its inputs to its outputs, in their order."""
    session = session_of(model.proto.SerializeToString(), threads)

    def run(inputs: Sequence[Array]) -> list[Array]:
        feeds = {entry.name: np.ascontiguousarray(x) for entry, x in zip(model.inputs, inputs, strict=True)}
        return [np.asarray(output) for output in session.run(list(model.outputs), feeds)]

    return run
