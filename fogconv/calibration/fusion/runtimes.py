"""Runtimes: those that are installed here, and what test cases find of each."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

from fogconv.calibration.fusion.cases import Findings, Runtime, find

NEEDED = ("onnx", "onnxruntime")
"""For ONNX Runtime: the one to write a model, the other to run it."""


def missing() -> tuple[str, ...]:
    """The libraries that ONNX Runtime's test cases lack here."""
    return tuple(name for name in NEEDED if find_spec(name) is None)


def runtimes() -> Iterator[Runtime]:
    """Imported on use: a calibration without test cases needs none of them."""
    from fogconv.calibration.fusion.in_fogconv import Fogconv

    yield Fogconv()
    if not missing():
        from fogconv.calibration.fusion.in_onnx_runtime import OnnxRuntime

        yield OnnxRuntime()


def found_here() -> tuple[Findings, ...]:
    """What each runtime fuses, on one thread of this device: about ten seconds."""
    return tuple(find(runtime) for runtime in runtimes())
