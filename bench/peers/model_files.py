"""Model files: one network with seeded weights, in the form that each runtime reads, with a picture and torch's answer.

    python -m bench.peers.model_files NET FOLDER PRECISION

A process of its own, because converters print much. What they could not write stands in MISSING, with the reasons. In 8
bits each runtime's file comes from its own quantiser, at its default settings: fogconv's, onnxruntime.quantization and
NNCF (for OpenVINO). All of them see the same seeded pictures, and never the one that is run.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import warnings
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fogconv.errors import FogconvError, InputError
from fogconv.ir.arrays import Array
from fogconv.zoo.models import load_model

ONNX, TORCHSCRIPT, MNN, NCNN, TFLITE = "net.onnx", "net.pt", "net.mnn", "net.ncnn.param", "net.tflite"
FOGCONV_INT8, ONNXRUNTIME_INT8, OPENVINO_INT8 = "net.fogconv8.onnx", "net.onnxruntime8.onnx", "net.openvino8.xml"
FP32, INT8 = "fp32", "int8"
PRECISIONS = (FP32, INT8)
MISSING = "missing.json"
INPUT, ANSWER = "input.npy", "answer.npy"
OPSET = 17
CALIBRATION_PICTURES = 16


def written(net: str, folder: Path, precision: str) -> dict[str, str]:
    """Write all forms into ``folder``. The reasons why some could not be written, by the form's name. Raises InputError
    where there is no such network."""
    command = [sys.executable, "-m", "bench.peers.model_files", net, str(folder), precision]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise InputError(done.stderr.strip().splitlines()[-1])
    missing: dict[str, str] = json.loads((folder / MISSING).read_text())
    return missing


def _write(net: str, folder: Path, precision: str) -> dict[str, str]:
    torch.set_grad_enabled(False)
    model = load_model(net, weights="random")
    x = torch.randn(model.example().shape, generator=torch.Generator().manual_seed(0))
    np.save(folder / INPUT, x.numpy())
    with double_precision():
        np.save(folder / ANSWER, model.module.double()(x.double()).numpy())
    module = model.module.float()
    if precision == INT8:
        _to_onnx(folder, module, x)
        return _quantize(folder, _pictures(x))
    return write_fp32(module, x, folder, (MNN, NCNN, TFLITE))


def write_fp32(module: torch.nn.Module, x: torch.Tensor, folder: Path, forms: Collection[str]) -> dict[str, str]:
    """Write one module in fp32 into ``folder``: as ONNX, as TorchScript, and in those of ``forms`` that are converted from
    these. The reasons why some could not be written, by the form's name."""
    _to_onnx(folder, module, x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(module, x).save(str(folder / TORCHSCRIPT))
    missing: dict[str, str] = {}
    for form, convert in {MNN: _to_mnn, NCNN: _to_ncnn, TFLITE: _to_tflite}.items():
        if form not in forms:
            continue
        try:
            convert(folder, module, x)
        except Exception as error:  # every converter fails in ways of its own
            missing[form] = str(error).strip().splitlines()[-1][:200] or type(error).__name__
    return missing


def _to_onnx(folder: Path, module: torch.nn.Module, x: torch.Tensor) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        names = {"input_names": ["x"], "output_names": ["y"]}
        torch.onnx.export(module, (x,), str(folder / ONNX), dynamo=False, opset_version=OPSET, **names)


def _pictures(x: torch.Tensor) -> list[Array]:
    """For calibration: drawn as ``x`` is, from another seed."""
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(x.shape, generator=generator).numpy() for _ in range(CALIBRATION_PICTURES)]


def _quantize(folder: Path, pictures: Sequence[Array]) -> dict[str, str]:
    """Write the forms of 8 bits from the file in fp32. The reasons why some could not be written."""
    missing: dict[str, str] = {}
    forms = {FOGCONV_INT8: _by_fogconv, ONNXRUNTIME_INT8: _by_onnxruntime, OPENVINO_INT8: _by_nncf}
    for form, quantize in forms.items():
        try:
            quantize(folder / ONNX, folder / form, pictures)
        except Exception as error:  # as above
            missing[form] = str(error).strip().splitlines()[-1][:200] or type(error).__name__
    return missing


def _by_fogconv(file: Path, to: Path, pictures: Sequence[Array]) -> None:
    from fogconv.frontend.network import network_graph
    from fogconv.frontend.onnx.write import write
    from fogconv.quantization.quantize import quantized
    from fogconv.zoo.model_request import ModelRequest

    found = quantized(network_graph(ModelRequest(str(file))), [[each] for each in pictures])
    write(found.marked.graph, found.marked.integers, to)


def _by_onnxruntime(file: Path, to: Path, pictures: Sequence[Array]) -> None:
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc, unused-ignore]
        def __init__(self) -> None:
            self._left = iter(pictures)

        def get_next(self) -> dict[str, Array] | None:
            picture = next(self._left, None)
            return None if picture is None else {"x": picture}

    # The preparation that its manual asks for; shapes are all known.
    prepared = to.with_suffix(".prepared.onnx")
    quant_pre_process(str(file), str(prepared), skip_symbolic_shape=True)
    types = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8}
    quantize_static(str(prepared), str(to), Reader(), quant_format=QuantFormat.QDQ, per_channel=True, **types)


def _by_nncf(file: Path, to: Path, pictures: Sequence[Array]) -> None:
    _need("openvino")
    _need("nncf")
    import nncf
    import openvino

    found = nncf.quantize(openvino.Core().read_model(file), nncf.Dataset(list(pictures)), subset_size=len(pictures))
    openvino.save_model(found, to, compress_to_fp16=False)


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
        (destination / MISSING).write_text(json.dumps(_write(sys.argv[1], destination, sys.argv[3])))
    except FogconvError as error:
        sys.exit(str(error))
