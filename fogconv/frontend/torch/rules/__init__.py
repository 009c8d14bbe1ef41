"""Which ATen operations become layers, and how.

A rule receives the translator, the node and its arguments by name. It adds layers and returns the node's value, or
returns None: then torch computes the node on the master. Element-wise rules apply only where an operand is already a map;
between hosted values (a transformer's token sequences) leaving torch gains nothing.
"""

from __future__ import annotations

from collections.abc import Mapping

from fogconv.frontend.torch.rules import channels, conv, pointwise, pooling, space
from fogconv.frontend.torch.translate import Rule

RULES: Mapping[str, Rule] = {
    "conv2d": conv.conv,
    "convolution": space.convolution,
    "conv_transpose2d": space.conv_transpose,
    "upsample_nearest2d": space.upsample("nearest"),
    "_upsample_nearest_exact2d": space.upsample("nearest_exact"),
    "upsample_bilinear2d": space.upsample("linear"),
    "upsample_bicubic2d": space.upsample("cubic"),
    "pixel_shuffle": space.pixel_shuffle,
    "pixel_unshuffle": space.pixel_unshuffle,
    "flip": space.flip,
    "linear": conv.linear,
    "addmm": conv.addmm,
    "mm": conv.mm,
    "pad": space.pad,
    "constant_pad_nd": space.pad,
    "reflection_pad2d": space.pad,
    "replication_pad2d": space.pad,
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
    "hardtanh": pointwise.clamp,
    "clamp": pointwise.clamp,
    "clamp_min": pointwise.clamp,
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
    "amax": pooling.maximum,
    "mean": pooling.mean,
    "cat": channels.concatenate,
    "concat": channels.concatenate,
    "chunk": channels.split,
    "split": channels.split,
    "split_with_sizes": channels.split,
    "slice": space.slice_,
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
