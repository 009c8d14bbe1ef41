"""Which ONNX operators become layers, and how.

A rule receives the translator and the node. It adds layers and returns the node's value, or returns None: then ONNX Runtime
computes the node on the master.
"""

from __future__ import annotations

from collections.abc import Mapping

from fogconv.frontend.onnx.rules import channels, conv, pointwise, pooling, space
from fogconv.frontend.onnx.translate import Rule

RULES: Mapping[str, Rule] = {
    "Conv": conv.conv,
    "Gemm": conv.gemm,
    "MatMul": conv.matmul,
    "ConvTranspose": space.conv_transpose,
    "Resize": space.resize,
    "Upsample": space.resize,
    "DepthToSpace": space.depth_to_space,
    "SpaceToDepth": space.space_to_depth,
    "Pad": space.pad,
    "BatchNormalization": pointwise.batch_norm,
    "Relu": pointwise.activation("relu"),
    "Sigmoid": pointwise.activation("sigmoid"),
    "HardSwish": pointwise.activation("hardswish"),
    "HardSigmoid": pointwise.hard_sigmoid,
    "Clip": pointwise.clip,
    "LeakyRelu": pointwise.leaky_relu,
    "Add": pointwise.add,
    "Sum": pointwise.add,
    "Sub": pointwise.subtract,
    "Mul": pointwise.multiply,
    "Div": pointwise.divide,
    "Max": pointwise.maximum,
    "MaxPool": pooling.max_pool,
    "AveragePool": pooling.average_pool,
    "GlobalAveragePool": pooling.global_average,
    "GlobalMaxPool": pooling.global_max,
    "ReduceMax": pooling.maximum,
    "ReduceMean": pooling.mean,
    "Concat": channels.concatenate,
    "Split": channels.split,
    "Slice": space.slice_,
    "Transpose": channels.transpose,
    "Identity": channels.same,
    "Dropout": channels.dropout,
    "Reshape": channels.reshape,
    "Flatten": channels.reshape,
    "Squeeze": channels.reshape,
    "Unsqueeze": channels.reshape,
}
