"""Runtimes: how each opens a model's file for so many threads, in fp32 or 8 bits, and runs it.

Every one of them is left at its own best settings but for two: the number of threads, and full precision outside of what
its file has in 8 bits (OpenVINO and ncnn would take 16 bits where the processor has them).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.peers import model_files
from bench.peers.model_files import FP32, INT8
from fogconv.ir.arrays import Array

Run = Callable[[Array], Array]
Open = Callable[[Path, int], Run]


@dataclass(frozen=True, slots=True)
class Runtime:
    """``module`` has to be installed; ``forms`` are the files that it reads, by precision."""

    module: str
    forms: Mapping[str, str]
    open: Open


def fogconv(file: Path, threads: int) -> Run:
    from fogconv.cluster.connect import connect
    from fogconv.frontend.network import network_graph
    from fogconv.hardware.topology import Topology
    from fogconv.planning.plan_options import PlanOptions
    from fogconv.runtime.engine import Engine
    from fogconv.runtime.run_options import RunOptions
    from fogconv.zoo.model_request import ModelRequest

    graph = network_graph(ModelRequest(str(file)))
    session = connect("inproc://0", threads=threads).__enter__()  # until the process ends
    topology = Topology.uniform(1, 1e11, 1e9, 1e-4)
    engine = Engine(graph, session, topology, PlanOptions("local"), RunOptions(adapt=False))
    return lambda x: engine.run(x).output


def onnx_runtime(file: Path, threads: int) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return lambda x: np.asarray(session.run(["y"], {"x": x})[0])


def openvino(file: Path, threads: int) -> Run:
    import openvino as ov

    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
    }
    compiled = ov.Core().compile_model(file, "CPU", settings)
    request = compiled.create_infer_request()
    return lambda x: np.asarray(request.infer([x])[0])


def ncnn(file: Path, threads: int) -> Run:
    import ncnn

    net = ncnn.Net()
    net.opt.num_threads = threads
    for name in ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic", "use_bf16_storage", "use_bf16_packed"):
        if hasattr(net.opt, name):
            setattr(net.opt, name, False)
    net.load_param(str(file))
    net.load_model(str(file).replace(".param", ".bin"))

    def run(x: Array) -> Array:
        extractor = net.create_extractor()
        extractor.input("in0", ncnn.Mat(x[0]))
        return np.asarray(extractor.extract("out0")[1])[None]

    return run


def mnn(file: Path, threads: int) -> Run:
    import MNN

    interpreter = MNN.Interpreter(str(file))
    session = interpreter.createSession({"precision": "high", "backend": "CPU", "numThread": threads})
    entry, end = interpreter.getSessionInput(session), interpreter.getSessionOutput(session)
    shape = end.getShape()

    def run(x: Array) -> Array:
        y = np.zeros(shape, np.float32)  # a tensor borrows the memory of its array
        given, found = (
            MNN.Tensor(array.shape, MNN.Halide_Type_Float, array, MNN.Tensor_DimensionType_Caffe) for array in (x, y)
        )
        entry.copyFrom(given)
        interpreter.runSession(session)
        end.copyToHostTensor(found)
        return np.array(found.getNumpyData())

    return run


def litert(file: Path, threads: int) -> Run:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(file), num_threads=threads)
    interpreter.allocate_tensors()
    (entry,), (end,) = interpreter.get_input_details(), interpreter.get_output_details()

    def run(x: Array) -> Array:
        interpreter.set_tensor(entry["index"], x)
        interpreter.invoke()
        return np.asarray(interpreter.get_tensor(end["index"]))

    return run


def torch_folded(file: Path, threads: int) -> Run:
    """torch, with batch norms folded, in the channels-last format."""
    import torch

    torch.set_num_threads(threads)
    module: Any = torch.jit.load(str(file))
    module = torch.jit.optimize_for_inference(torch.jit.freeze(module.eval()))

    @torch.inference_mode()
    def run(x: Array) -> Array:
        return np.asarray(module(torch.from_numpy(x)))

    return run


RUNTIMES = {
    "fogconv": Runtime("fogconv", {FP32: model_files.ONNX, INT8: model_files.FOGCONV_INT8}, fogconv),
    "onnxruntime": Runtime("onnxruntime", {FP32: model_files.ONNX, INT8: model_files.ONNXRUNTIME_INT8}, onnx_runtime),
    "openvino": Runtime("openvino", {FP32: model_files.ONNX, INT8: model_files.OPENVINO_INT8}, openvino),
    "ncnn": Runtime("ncnn", {FP32: model_files.NCNN}, ncnn),
    "mnn": Runtime("MNN", {FP32: model_files.MNN}, mnn),
    "litert": Runtime("ai_edge_litert", {FP32: model_files.TFLITE}, litert),
    "torch": Runtime("torch", {FP32: model_files.TORCHSCRIPT}, torch_folded),
}
