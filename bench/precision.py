"""Precision: what 8 and 16 bits gain in time and memory, and what they lose in accuracy.

    python -m bench.precision                                  every net, and all accuracies: about 10 minutes
    python -m bench.precision --net resnet50 --json            one net's times and memory
    python -m bench.precision --accuracy efficientnet_lite0    one accuracy
    python -m bench.precision --crops 60                       fewer crops

Times are medians of processor time on one core, fp32, int8, bf16 and the peers in turns (A B C … A B C), with seeded
weights and a seeded picture; peers (ONNX Runtime, and OpenVINO where it is installed) run the same QDQ file. Memory is a
worker's weights as packed and its maps, of a plan for one rank. Accuracy: the top-1 agreement of int8, fp16 and bf16 with
fp32 over crops and distortions of the bundled photographs, drawn by a seed of their own and other than those of calibration;
and the accuracy that a CNN trained on scikit-learn's digits loses. 16 bits are measured with the pictures that int8 is
calibrated with, and without pictures ("plain").
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from fogconv.cluster.executor.executable import Executable
from fogconv.cluster.executor.microbenchmark import NoMailbox
from fogconv.frontend.network import network_graph, open_network
from fogconv.ir.graph import LayerGraph
from fogconv.ir.memory.footprint import footprint
from fogconv.ir.plan import Plan, at_home
from fogconv.ir.precision.elements import HALVES
from fogconv.kernels.conv.conv import algorithm_of
from fogconv.lowering.lower import lower
from fogconv.quantization.marking import int8_share
from fogconv.quantization.precision import in_precision
from fogconv.quantization.quantize import Quantized, quantized
from fogconv.zoo.model_request import ModelRequest
from fogconv.zoo.preprocessing import bundled_images, load_image

NETS = ("resnet50", "vgg16", "inception_v3", "mobilenet_v2")
ACCURACIES = ("efficientnet_lite0", "digits")
CROPS, CROP_SEED, CALIBRATION_SEED = 320, 2026, 1
CALIBRATION_CROPS = 32
SURE = 0.1
"""The margin in fp32, of the greatest probability over the second, from which on an answer counts as sure."""
PLAIN = " plain"
ROUNDS = 15

Array = NDArray[np.float32]
Run = Callable[[Array], Array]


@dataclass(frozen=True)
class Speed:
    """Times faster; ``memory_ratio``: int8's weights and maps, of fp32's, and bf16's; ``share`` of the multiply-adds are in
    int8."""

    int8_vs_fp32: float
    int8_vs_best_peer: float | None
    bf16_vs_fp32: float
    memory_ratio: float
    memory_ratio_bf16: float
    share: float
    times_ms: dict[str, float]


@dataclass(frozen=True)
class Accuracy:
    """Shares (0 to 1); ``agreement_sure``: int8's where fp32 is sure; ``agreement_halves``: of "fp16" and "bf16" with
    pictures, and of "fp16 plain" and "bf16 plain" without; ``agreement_16bit``: the less of both with pictures.
    ``points_lost``: of accuracy, in percent, by int8. ``share`` of the multiply-adds are in int8."""

    pictures: int
    agreement_int8: float
    agreement_sure: float | None
    agreement_halves: dict[str, float]
    points_lost: float | None
    share: float
    agreement_16bit: float = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "agreement_16bit", min(self.agreement_halves[half] for half in HALVES))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--net", action="append", choices=NETS)
    parser.add_argument("--accuracy", action="append", choices=ACCURACIES)
    parser.add_argument("--crops", type=int, default=CROPS)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    every = not given.net and not given.accuracy
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    nets = {name: speed(name) for name in given.net or (NETS if every else ())}
    accuracies = {name: accuracy(name, given.crops) for name in given.accuracy or (ACCURACIES if every else ())}
    if given.json:
        found = {"nets": nets, "accuracy": accuracies}
        print(json.dumps({key: {name: asdict(each) for name, each in value.items()} for key, value in found.items()}))
        return
    for name, each in nets.items():
        times = ", ".join(f"{runtime} {milliseconds:.1f} ms" for runtime, milliseconds in each.times_ms.items())
        peer = "no peer" if each.int8_vs_best_peer is None else f"{each.int8_vs_best_peer:.2f} of the best peer's time"
        print(
            f"{name}: int8 {each.int8_vs_fp32:.2f} times as fast as fp32, {peer}; memory {100 * each.memory_ratio:.0f} %; "
            f"bf16 {each.bf16_vs_fp32:.2f} times as fast as fp32; memory {100 * each.memory_ratio_bf16:.0f} %; "
            f"{100 * each.share:.0f} % of the multiply-adds in int8 ({times})"
        )
    for name, one in accuracies.items():
        lost = "" if one.points_lost is None else f", {one.points_lost:.2f} points of accuracy lost"
        sure = "" if one.agreement_sure is None else f" ({100 * one.agreement_sure:.1f} % where fp32 is sure)"
        print(f"{name}: int8 agrees with fp32 on {100 * one.agreement_int8:.1f} % of {one.pictures} pictures{sure}{lost}")
        print(f"{name}: {100 * one.share:.1f} % of the multiply-adds in int8")
        with_pictures, plain = (
            " %, ".join(f"{half} on {100 * one.agreement_halves[half + how]:.1f}" for half in HALVES) for how in ("", PLAIN)
        )
        print(f"{name}: {with_pictures} % with the pictures of calibration; without, {plain} %")


# Time and memory


def speed(name: str) -> Speed:
    graph = network_graph(ModelRequest(name, "random"))
    rng = np.random.default_rng(0)
    pictures = [rng.standard_normal(graph.picture.shape, np.float32) for _ in range(3)]
    found = quantized(graph, [[each] for each in pictures], tolerance=1.0)
    halves = in_precision(graph, "bf16", None)
    runs = {"fp32": own(graph), "int8": own(found.graph), "bf16": own(halves)}
    with tempfile.TemporaryDirectory() as folder:
        runs |= peers(found, Path(folder))
        times: dict[str, list[float]] = {runtime: [] for runtime in runs}
        for run in runs.values():
            run(pictures[0])
        for _ in range(ROUNDS):
            for runtime, run in runs.items():
                begin = time.process_time()
                run(pictures[0])
                times[runtime].append(1e3 * (time.process_time() - begin))
    medians = {runtime: statistics.median(each) for runtime, each in times.items()}
    others = [each for runtime, each in medians.items() if runtime not in ("fp32", "int8", "bf16")]
    memory = [taken_bytes(each) for each in (found.graph, graph, halves)]
    return Speed(
        medians["fp32"] / medians["int8"],
        medians["int8"] / min(others) if others else None,
        medians["fp32"] / medians["bf16"],
        memory[0] / memory[1],
        memory[2] / memory[1],
        int8_share(found.graph),
        medians,
    )


def alone(graph: LayerGraph) -> Any:
    plan = Plan(graph.name, 1, "local", tuple(at_home(graph, layer) for layer in graph.layers))
    return lower(graph, plan)


def own(graph: LayerGraph) -> Run:
    lowered = alone(graph)
    executable, mailbox = Executable(lowered.programs[0], lowered.weights), NoMailbox()
    return lambda x: executable.run(mailbox, [x])[0]


def taken_bytes(graph: LayerGraph) -> int:
    """Weights as they are packed, and maps."""
    size = footprint(alone(graph).programs[0], choose=algorithm_of)
    return size.packed + size.plain + size.maps


def peers(found: Quantized, folder: Path) -> dict[str, Run]:
    """Other runtimes with the same QDQ file, on one thread."""
    from fogconv.frontend.onnx.write import write

    path = folder / "net.onnx"
    write(found.marked.graph, found.marked.integers, path)
    runs: dict[str, Run] = {}
    try:
        import onnxruntime
    except ImportError:
        pass
    else:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 1, 3
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        [entry] = session.get_inputs()
        runs["onnxruntime"] = lambda x: session.run(None, {entry.name: x})[0]
    try:
        import openvino
    except ImportError:
        return runs
    compiled = openvino.Core().compile_model(str(path), "CPU", {"INFERENCE_NUM_THREADS": 1})
    request = compiled.create_infer_request()

    def openvino_run(x: Array) -> Array:
        request.infer({0: x})
        return np.asarray(request.get_output_tensor(0).data)

    return runs | {"openvino": openvino_run}


# Accuracy


def accuracy(name: str, crops: int) -> Accuracy:
    return digits() if name == "digits" else photographs(name, crops)


def photographs(name: str, crops: int) -> Accuracy:
    network = open_network(ModelRequest(name))
    images = [load_image(each) for each in bundled_images()]

    def drawn(count: int, seed: int) -> list[Array]:
        random = np.random.default_rng(seed)
        return [network.card.preprocess(distorted(images[at % len(images)], random))[None] for at in range(count)]

    batches = [[each] for each in drawn(CALIBRATION_CROPS, CALIBRATION_SEED)]
    found = quantized(network.graph, batches)
    exact, rounded = own(network.graph), own(found.graph)
    halves = in_halves(network.graph, batches)
    same, sure, same_sure = 0, 0, 0
    same_in = dict.fromkeys(halves, 0)
    for x in drawn(crops, CROP_SEED):
        one, other = probabilities(exact(x)), probabilities(rounded(x))
        agree = int(one.argmax() == other.argmax())
        second, first = np.sort(one)[-2:]
        same += agree
        for half, run in halves.items():
            same_in[half] += int(one.argmax() == run(x).argmax())
        if first - second >= SURE:
            sure, same_sure = sure + 1, same_sure + agree
    shares = {half: count / crops for half, count in same_in.items()}
    return Accuracy(crops, same / crops, same_sure / sure if sure else None, shares, None, found.share)


def in_halves(graph: LayerGraph, batches: Sequence[Sequence[Array]]) -> dict[str, Run]:
    """By the names of ``agreement_halves``."""
    ways: dict[str, Sequence[Sequence[Array]] | None] = {"": batches, PLAIN: None}
    return {half + how: own(in_precision(graph, half, given)) for how, given in ways.items() for half in HALVES}


def probabilities(scores: Array) -> NDArray[np.float64]:
    exponents = np.exp(scores.reshape(-1).astype(np.float64) - scores.max())
    return exponents / exponents.sum()


def distorted(image: Image.Image, random: np.random.Generator) -> Image.Image:
    """A crop of 35 to 100 % of the sides, mirrored or not, with other light and contrast, and a blur or noise on some."""
    width, height = image.size
    share = random.uniform(0.35, 1.0)
    size = (max(32, int(width * share)), max(32, int(height * share)))
    left, top = (int(random.integers(0, whole - part + 1)) for whole, part in zip((width, height), size, strict=True))
    part = image.crop((left, top, left + size[0], top + size[1]))
    part = ImageOps.mirror(part) if random.random() < 0.5 else part
    part = ImageEnhance.Brightness(part).enhance(random.uniform(0.6, 1.4))
    part = ImageEnhance.Contrast(part).enhance(random.uniform(0.6, 1.4))
    if random.random() < 0.25:
        part = part.filter(ImageFilter.GaussianBlur(random.uniform(0.5, 2.0)))
    if random.random() < 0.25:
        noisy = np.asarray(part, np.float64) + random.normal(0, 12, (*part.size[::-1], 3))
        part = Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))
    return part


def digits() -> Accuracy:
    """A CNN of three convs and a linear layer, trained on two thirds of the digits; accuracy on the others."""
    import torch
    from sklearn.datasets import load_digits

    from fogconv.frontend.torch.export import export

    torch.manual_seed(0)
    torch.set_num_threads(1)
    loaded: Any = load_digits()
    x = (loaded.images[:, None] / 16).astype(np.float32)
    order = np.random.default_rng(0).permutation(len(x))
    learn, test = order[: 2 * len(x) // 3], order[2 * len(x) // 3 :]
    nn = torch.nn
    net = nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10),
    )  # fmt: skip
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    targets = torch.from_numpy(loaded.target)
    for _ in range(20):
        for batch in np.array_split(np.random.default_rng(1).permutation(learn), len(learn) // 64):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(net(torch.from_numpy(x[batch])), targets[batch])
            loss.backward()
            optimizer.step()
    graph = export(net.eval(), (torch.from_numpy(x[:1]),), "digits")
    batches = [[x[at : at + 1]] for at in learn[:64]]
    found, halves = quantized(graph, batches), in_halves(graph, batches)
    runs = [own(graph), own(found.graph), *halves.values()]
    answers = np.array([[run(x[at : at + 1]).reshape(-1).argmax() for run in runs] for at in test])
    right = (answers == loaded.target[test, None]).mean(axis=0)
    same = [float(each) for each in (answers[:, :1] == answers).mean(axis=0)]
    agreement = dict(zip(halves, same[2:], strict=True))
    return Accuracy(len(test), same[1], None, agreement, float(100 * (right[0] - right[1])), found.share)


if __name__ == "__main__":
    main()
