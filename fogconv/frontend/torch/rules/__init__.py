"""Which ATen operations become layers, and how.

A rule receives the translator, the node and its arguments by name. It adds layers and returns the node's value, or
returns None: then torch computes the node on the master. Element-wise rules apply only where an operand is already a map;
between hosted values (a transformer's token sequences) leaving torch gains nothing.
"""

from __future__ import annotations

from collections.abc import Mapping

from fogconv.frontend.torch.rules import channels, conv, pointwise, pooling
from fogconv.frontend.torch.translate import Rule

RULES: Mapping[str, Rule] = {
    "conv2d": conv.conv,
    "convolution": conv.conv,
    "linear": conv.linear,
    "addmm": conv.addmm,
    "mm": conv.mm,
    "pad": conv.pad,
    "constant_pad_nd": conv.pad,
    "batch_norm": pointwise.batch_norm,
    "_native_batch_norm_legit_no_training": pointwise.batch_norm_tuple,
    "relu": pointwise.activation("relu"),
    "relu6": pointwise.activation("relu6"),
    "silu": pointwise.activation("silu"),
    "hardswish": pointwise.activation("hardswish"),
    "sigmoid": pointwise.activation("sigmoid"),
    "hardsigmoid": pointwise.activation("hardsigmoid"),
    "leaky_relu": pointwise.elementwise("leaky_relu", "negative_slope"),
    "maximum": pointwise.elementwise_pair("maximum"),
    "minimum": pointwise.elementwise_pair("minimum"),
    "elu": pointwise.elementwise("elu", "alpha", "scale", "input_scale"),
    "selu": pointwise.elementwise("elu", 1.6732632423543772, 1.0507009873554805, 1.0),
    "celu": pointwise.celu,
    "gelu": pointwise.gelu,
    "mish": pointwise.elementwise("mish"),
    "softplus": pointwise.elementwise("softplus", "beta", "threshold"),
    "log_sigmoid": pointwise.elementwise("log_sigmoid"),
    "tanh": pointwise.elementwise("tanh"),
    "erf": pointwise.elementwise("erf"),
    "exp": pointwise.elementwise("exp"),
    "log": pointwise.elementwise("log"),
    "sqrt": pointwise.elementwise("sqrt"),
    "reciprocal": pointwise.elementwise("reciprocal"),
    "abs": pointwise.elementwise("abs"),
    "floor": pointwise.elementwise("floor"),
    "ceil": pointwise.elementwise("ceil"),
    "round": pointwise.elementwise("round"),
    "neg": pointwise.negative,
    "pow": pointwise.power,
    "prelu": pointwise.prelu,
    "_prelu_kernel": pointwise.prelu,
    "hardtanh": pointwise.clamp,
    "clamp": pointwise.clamp,
    "clamp_min": pointwise.clamp,
    "clamp_max": pointwise.clamp,
    "add": pointwise.add,
    "sub": pointwise.subtract,
    "rsub": pointwise.subtract_from,
    "mul": pointwise.multiply,
    "div": pointwise.divide,
    "max_pool2d": pooling.max_pool,
    "max_pool2d_with_indices": pooling.max_pool_tuple,
    "avg_pool2d": pooling.average_pool,
    "adaptive_avg_pool2d": pooling.adaptive_average,
    "_adaptive_avg_pool2d": pooling.adaptive_average,
    "adaptive_max_pool2d": pooling.adaptive_max_tuple,
    "mean": pooling.mean,
    "cat": channels.concatenate,
    "concat": channels.concatenate,
    "chunk": channels.split,
    "split": channels.split,
    "split_with_sizes": channels.split,
    "slice": channels.slice_,
    "narrow": channels.narrow,
    "channel_shuffle": channels.channel_shuffle,
    "native_channel_shuffle": channels.channel_shuffle,
    "select": channels.select,
    "transpose": channels.transpose,
    "swapaxes": channels.transpose,
    "permute": channels.permute,
    **dict.fromkeys(
        ("dropout", "feature_dropout", "alpha_dropout", "contiguous", "clone", "detach", "alias", "lift_fresh_copy"),
        channels.same,
    ),
    **dict.fromkeys(("_to_copy", "to"), channels.same),
    **dict.fromkeys(
        ("view", "reshape", "_unsafe_view", "_reshape_alias", "flatten", "unflatten", "squeeze", "unsqueeze", "expand"),
        channels.reshape,
    ),
}
