"""Convolutions on bytes against fp32 and ONNX Runtime: `python -m bench.byte_kernels --net resnet50 [--json] [--fastest]`.

One thread, batch 1. For each distinct convolution of a network: our kernel on bytes with requantisation, our fp32 kernel
with ReLU, and ONNX Runtime's QLinearConv (its channels-last form, which is the faster), interleaved in this process. A ratio
is the median over the rounds; the total counts each layer as often as it occurs. ONNX Runtime's bytes are compared with
ours: they may differ by 1 where it rounds otherwise.

``--fastest`` takes each contestant's fastest round instead, for machines with noisy neighbours.

``--isa`` builds our kernels for another instruction set, as $FOGCONV_ISA does: avx2, avx2+dots, avx512.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from collections.abc import Callable
from typing import Any

import numpy as np

from fogconv.ir.geometry import ConvSpec

NETS = ("resnet50", "mobilenet_v2", "vgg16", "inception_v3")
BUDGET_S = 0.5
ZERO_X, ZERO_Y, SCALE_X, SCALE_W, SCALE_Y = 120, 8, 0.02, 0.005, 0.9


def onnx_session(spec: ConvSpec, weight: np.ndarray, bias: np.ndarray) -> tuple[Any, dict[str, np.ndarray]]:
    """QLinearConv of ONNX Runtime's own domain with channels last, on one thread, and its input of random bytes."""
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    constants = {
        "x_scale": np.float32(SCALE_X),
        "x_zero": np.uint8(ZERO_X),
        "w": weight,
        "w_scale": np.full(spec.out_channels, SCALE_W, np.float32),
        "w_zero": np.zeros(spec.out_channels, np.int8),
        "y_scale": np.float32(SCALE_Y),
        "y_zero": np.uint8(ZERO_Y),
        "b": bias,
    }
    node = helper.make_node(
        "QLinearConv",
        ["x", *constants],
        ["y"],
        domain="com.microsoft",
        channels_last=1,
        kernel_shape=spec.kernel,
        strides=spec.stride,
        pads=[spec.padding[0], spec.padding[2], spec.padding[1], spec.padding[3]],
        dilations=spec.dilation,
        group=spec.groups,
    )
    (n, c, h, w), (_, f, rows, columns) = spec.input_shape, spec.output_shape
    graph = helper.make_graph(
        [node],
        "conv",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, (n, h, w, c))],
        [helper.make_tensor_value_info("y", TensorProto.UINT8, (n, rows, columns, f))],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session, {"x": np.random.default_rng(1).integers(0, 256, (n, h, w, c), np.uint8)}


def bench_layer(spec: ConvSpec, fastest: bool) -> dict[str, Any]:
    """Medians in microseconds, ratios of the paired rounds, and by how much the outputs differ."""
    from bench.layers import label
    from bench.scaling import interleaved
    from fogconv.kernels.conv.conv import prepare_conv2d
    from fogconv.kernels.maps.blocked import Blocked
    from fogconv.kernels.quantized.conv import prepare
    from fogconv.kernels.quantized.numbers import Target, multipliers

    rng = np.random.default_rng(0)
    weight = rng.integers(-127, 128, spec.weight_shape, np.int8)
    bias = rng.integers(-5000, 5000, spec.out_channels).astype(np.int32)
    session, feed = onnx_session(spec, weight, bias)

    factors = multipliers(SCALE_X, np.full(spec.out_channels, np.float32(SCALE_W)), over=SCALE_Y)
    ours = prepare(spec, weight, bias, ZERO_X, multipliers=factors, target=Target(ZERO_Y))
    source, out = ours.empty_input(), ours.empty_output()
    padded = np.full((*feed["x"].shape[:3], source.data.shape[1] * source.lanes), ZERO_X, np.uint8)
    padded[..., : spec.in_channels] = feed["x"]
    source.interior[...] = padded.reshape(*padded.shape[:3], -1, source.lanes).transpose(0, 3, 1, 2, 4)

    fp32 = prepare_conv2d(spec, weight.astype(np.float32), bias.astype(np.float32), activation="relu")
    calls: dict[str, Callable[[], object]] = {
        "int8": ours.bind(source, out),
        "fp32": fp32.bind(fp32.empty_input(), Blocked.empty(*spec.output_shape)),
        "onnxruntime": lambda: session.run(None, feed),
    }
    times = interleaved(calls, BUDGET_S)
    calls["int8"]()
    theirs = session.run(None, feed)[0].transpose(0, 3, 1, 2).astype(int)
    blocked = out.interior.transpose(0, 1, 4, 2, 3)
    mine = blocked.reshape(spec.batch, -1, spec.out_height, spec.out_width)[:, : spec.out_channels].astype(int)
    middle = min if fastest else statistics.median
    took = {name: middle(found) for name, found in times.items()}
    ratios = {
        name: took[name] / took["int8"]
        if fastest
        else statistics.median(a / b for a, b in zip(times[name], times["int8"], strict=True))
        for name in ("fp32", "onnxruntime")
    }
    return {
        "layer": label(spec),
        "times_us": {name: 1e6 * seconds for name, seconds in took.items()},
        "fp32_over_int8": ratios["fp32"],
        "onnxruntime_over_int8": ratios["onnxruntime"],
        "most_bytes_apart": int(np.abs(mine - theirs).max()),
    }


def bench_net(net: str, fastest: bool) -> dict[str, Any]:
    """All distinct convolutions, and the totals over all of them."""
    from bench.layers import conv_specs

    layers, totals = [], dict.fromkeys(("int8", "fp32", "onnxruntime"), 0.0)
    for spec, count in conv_specs(net).items():
        layers.append(bench_layer(spec, fastest) | {"count": count})
        for name, time_us in layers[-1]["times_us"].items():
            totals[name] += count * time_us
    return {
        "net": net,
        "layers": layers,
        "total_ms": {name: total / 1e3 for name, total in totals.items()},
        "fp32_over_int8": totals["fp32"] / totals["int8"],
        "onnxruntime_over_int8": totals["onnxruntime"] / totals["int8"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.byte_kernels", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--net", choices=NETS, default="resnet50", help="whose convolutions (default resnet50)")
    parser.add_argument("--isa", help="the instruction set of our kernels (default: this CPU's best)")
    parser.add_argument("--fastest", action="store_true", help="the fastest round instead of the median")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    if options.isa:
        os.environ["FOGCONV_ISA"] = options.isa
    found = bench_net(options.net, options.fastest)
    if options.json:
        print(json.dumps(found))
        return
    print(f"{'layer':32}{'×':>4}{'int8 µs':>10}{'fp32 ÷':>9}{'ORT ÷':>9}{'apart':>7}")
    for layer in found["layers"]:
        print(
            f"{layer['layer']:32}{layer['count']:4}{layer['times_us']['int8']:10.1f}{layer['fp32_over_int8']:9.2f}"
            f"{layer['onnxruntime_over_int8']:9.2f}{layer['most_bytes_apart']:7}"
        )
    total = found["total_ms"]["int8"]
    print(
        f"all convolutions: {total:.2f} ms on bytes, fp32 {found['fp32_over_int8']:.2f} and ONNX Runtime "
        f"{found['onnxruntime_over_int8']:.2f} times as long"
    )


if __name__ == "__main__":
    main()
