"""Model files: one network with seeded weights, in the form that each runtime reads, with a picture and torch's answer.

    python -m bench.peers.model_files NET FOLDER

A process of its own, because converters print much. What they could not write stands in MISSING, with the reasons.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fogconv.errors import FogconvError, InputError
from fogconv.zoo.models import load_model

ONNX, TORCHSCRIPT, MNN, NCNN, TFLITE = "net.onnx", "net.pt", "net.mnn", "net.ncnn.param", "net.tflite"
MISSING = "missing.json"
INPUT, ANSWER = "input.npy", "answer.npy"
OPSET = 17


def written(net: str, folder: Path) -> dict[str, str]:
    """Write all forms into ``folder``. The reasons why some could not be written, by the form's name. Raises InputError
    where there is no such network."""
    command = [sys.executable, "-m", "bench.peers.model_files", net, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise InputError(done.stderr.strip().splitlines()[-1])
    missing: dict[str, str] = json.loads((folder / MISSING).read_text())
    return missing


def _write(net: str, folder: Path) -> dict[str, str]:
    torch.set_grad_enabled(False)
    model = load_model(net, weights="random")
    x = torch.randn(model.example().shape, generator=torch.Generator().manual_seed(0))
    np.save(folder / INPUT, x.numpy())
    with double_precision():
        np.save(folder / ANSWER, model.module.double()(x.double()).numpy())
    module = model.module.float()
    missing: dict[str, str] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        names = {"input_names": ["x"], "output_names": ["y"]}
        torch.onnx.export(module, (x,), str(folder / ONNX), dynamo=False, opset_version=OPSET, **names)
        torch.jit.trace(module, x).save(str(folder / TORCHSCRIPT))
    for form, convert in {MNN: _to_mnn, NCNN: _to_ncnn, TFLITE: _to_tflite}.items():
        try:
            convert(folder, module, x)
        except Exception as error:  # every converter fails in ways of its own
            missing[form] = str(error).strip().splitlines()[-1][:200] or type(error).__name__
    return missing


@contextmanager
def double_precision() -> Iterator[None]:
    """The reference is computed in float64, so that every runtime's error is its own."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _to_mnn(folder: Path, module: torch.nn.Module, x: torch.Tensor) -> None:
    _need("MNN")
    code = "from MNN.tools import mnnconvert; mnnconvert.main()"
    _run(folder, [sys.executable, "-c", code, "-f", "ONNX", "--modelFile", ONNX, "--MNNModel", MNN, "--bizCode", "x"], MNN)


def _to_ncnn(folder: Path, module: torch.nn.Module, x: torch.Tensor) -> None:
    _need("pnnx")
    # fp16=0: the weights are stored as they are.
    command = [str(Path(sys.executable).with_name("pnnx")), TORCHSCRIPT, f"inputshape={list(x.shape)}", "fp16=0"]
    _run(folder, [word.replace(" ", "") for word in command], NCNN)


def _to_tflite(folder: Path, module: torch.nn.Module, x: torch.Tensor) -> None:
    _need("litert_torch")
    import litert_torch  # not in an extra: it asks for libraries of other versions

    converted: Any = litert_torch.convert(module, (x,))
    converted.export(str(folder / TFLITE))


def _need(module: str) -> None:
    if importlib.util.find_spec(module) is None:
        raise RuntimeError(f"{module} is not installed")


def _run(folder: Path, command: list[str], form: str) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=600)
    if not (folder / form).exists():
        raise RuntimeError((done.stderr or done.stdout).strip() or f"{command[0]} wrote no {form}")


if __name__ == "__main__":
    destination = Path(sys.argv[2])
    try:
        (destination / MISSING).write_text(json.dumps(_write(sys.argv[1], destination)))
    except FogconvError as error:
        sys.exit(str(error))
