"""Which ONNX operators become layers, and how.

A rule receives the translator and the node. It adds layers and returns the node's value, or returns None: then ONNX Runtime
computes the node on the master.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from fogconv.frontend.onnx.rules import channels, conv, norms, pointwise, pooling, space
from fogconv.frontend.onnx.translate import Rule

RULES: Mapping[str, Rule] = {
    "Conv": conv.one_row(conv.conv),
    "Gemm": conv.gemm,
    "MatMul": conv.matmul,
    "ConvTranspose": conv.one_row(space.conv_transpose),
    "Resize": space.resize,
    "Upsample": space.resize,
    "DepthToSpace": space.depth_to_space,
    "SpaceToDepth": space.space_to_depth,
    "Pad": conv.one_row(space.pad),
    "BatchNormalization": pointwise.batch_norm,
    "InstanceNormalization": norms.instance_norm,
    "GroupNormalization": norms.group_norm,
    "LayerNormalization": norms.layer_norm,
    "LRN": norms.lrn,
    "Softmax": norms.softmax("softmax"),
    "LogSoftmax": norms.softmax("log_softmax"),
    "Relu": pointwise.activation("relu"),
    "Sigmoid": pointwise.activation("sigmoid"),
    "HardSwish": pointwise.activation("hardswish"),
    "HardSigmoid": pointwise.hard_sigmoid,
    "Clip": pointwise.clip,
    "LeakyRelu": pointwise.elementwise("leaky_relu", ("alpha", 0.01)),
    "PRelu": pointwise.prelu,
    "Elu": pointwise.elementwise("elu", ("alpha", 1.0), 1.0, 1.0),
    "Selu": pointwise.elementwise("elu", ("alpha", 1.67326319217681884765625), ("gamma", 1.05070102214813232421875), 1.0),
    "Celu": pointwise.celu,
    "Gelu": pointwise.gelu,
    "Mish": pointwise.elementwise("mish"),
    "Swish": pointwise.elementwise("swish", ("alpha", 1.0)),
    "Softplus": pointwise.elementwise("softplus", 1.0, math.inf),
    "Softsign": pointwise.elementwise("softsign"),
    "Tanh": pointwise.elementwise("tanh"),
    "Erf": pointwise.elementwise("erf"),
    "Exp": pointwise.elementwise("exp"),
    "Log": pointwise.elementwise("log"),
    "Sqrt": pointwise.elementwise("sqrt"),
    "Reciprocal": pointwise.elementwise("reciprocal"),
    "Abs": pointwise.elementwise("abs"),
    "Floor": pointwise.elementwise("floor"),
    "Ceil": pointwise.elementwise("ceil"),
    "Round": pointwise.elementwise("round"),
    "Neg": pointwise.negative,
    "Pow": pointwise.power,
    "Add": pointwise.add,
    "Sum": pointwise.add,
    "Sub": pointwise.subtract,
    "Mul": pointwise.multiply,
    "Div": pointwise.divide,
    "Max": pointwise.extreme("maximum"),
    "Min": pointwise.extreme("minimum"),
    "MaxPool": conv.one_row(pooling.max_pool),
    "AveragePool": conv.one_row(pooling.average_pool),
    "GlobalAveragePool": conv.one_row(pooling.global_average),
    "GlobalMaxPool": conv.one_row(pooling.global_max),
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
