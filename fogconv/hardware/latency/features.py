"""Features: what latency predictors see of a step's size and of a device's load.

type    the class of a conv's kernel, or the kind of any other step: most predictors learn each by itself
amount  MACs, or the elements that a step other than a conv moves through memory
"""

from __future__ import annotations

import math

import msgspec
import numpy as np
from numpy.typing import NDArray

from fogconv.hardware.latency.samples import DeviceLoad
from fogconv.hardware.topology import INT8_CLASSES, KERNEL_CLASSES, kernel_class
from fogconv.ir.geometry import BLOCK, ConvSpec, MapSpec, StepSpec

MAP_KINDS = (
    "pool",
    "globalpool",
    "add",
    "affine",
    "gate",
    "permute",
    "copy",
    "leaky_relu",
    "maximum",
    "resample",
    "interleave",
    "transpose",
)
"""Steps other than convs whose times are known to differ; others are treated alike."""
TILE = 4
"""Rows and columns of a tile of F(4×4, 3×3)."""


def step_type(spec: StepSpec) -> str:
    if isinstance(spec, ConvSpec):
        return kernel_class(spec)
    return spec.costs_as


def amount(spec: StepSpec) -> float:
    """The measure of work to which a step's time is roughly proportional within its type."""
    return float(spec.macs) if isinstance(spec, ConvSpec) else spec.touched


def computed(spec: StepSpec) -> float:
    """The amount with channels rounded up to whole blocks, and Winograd's rows and columns to whole tiles, as the kernels
    compute them."""
    if isinstance(spec, MapSpec):
        return spec.touched
    height, width = spec.out_height, spec.out_width
    if kernel_class(spec).endswith("winograd"):
        height, width = (-(-n // TILE) * TILE for n in (height, width))
    area = spec.batch * height * width * spec.kernel[0] * spec.kernel[1]
    if spec.groups > 1:
        return float(area * _blocks(spec.out_channels) * BLOCK * (spec.in_channels // spec.groups))
    depth = spec.in_channels if spec.in_channels < BLOCK else _blocks(spec.in_channels) * BLOCK
    return float(area * depth * _blocks(spec.out_channels) * BLOCK)


def sizes(spec: StepSpec) -> NDArray[np.float64]:
    """Neurosurgeon's inputs: the number of input maps and filters, filter and map sizes, the stride; as logarithms."""
    kh, kw = spec.kernel
    area, stride = kh * kw, spec.stride[0] * spec.stride[1]
    if isinstance(spec, MapSpec):
        return np.log([math.e, spec.sources, spec.batch * spec.channels, spec.height, spec.width, area, stride])
    channels = spec.in_channels / spec.groups
    return np.log([math.e, channels, spec.out_channels, spec.out_height, spec.out_width, area, stride])


def features(spec: StepSpec, load: DeviceLoad) -> NDArray[np.float64]:
    """What trees see. Those of convs and those of other steps differ in number."""
    own = conv_features(spec) if isinstance(spec, ConvSpec) else map_features(spec)
    # What the system does not say is the same in all samples of a device, and so of no weight.
    return np.array([*own, *(value or 0.0 for value in msgspec.structs.astuple(load))])


def conv_features(spec: ConvSpec) -> list[float]:
    """Sizes, memory touched, work per byte, and how blocks of channels and tiles of pixels divide the layer."""
    kh, kw = spec.kernel
    h, w = spec.out_height, spec.out_width
    c, f = spec.in_channels, spec.out_channels
    macs = computed(spec)
    elements = (spec.weight_elements, spec.input_elements, spec.output_elements)
    logs = [math.log(value) for value in (macs, sum(elements), macs / sum(elements), *elements, h * w)]
    # The last tile of a row and the last group of output blocks are computed in full.
    waste = [math.ceil(w / tile) * tile / w for tile in (4, 6, 7, 8, 9, 14, 28)]
    waste += [math.ceil(f / (BLOCK * blocks)) * BLOCK * blocks / f for blocks in (2, 3)]
    return [
        *logs,
        *waste,
        macs / spec.macs,
        math.log(c / spec.groups * kh * kw),
        c,
        f,
        c % BLOCK,
        f % BLOCK,
        _blocks(c),
        _blocks(f),
        _blocks(f) % 2,
        _blocks(f) % 3,
        h,
        w,
        w % 14,
        w % 8,
        spec.height * spec.width,
        kh * kw,
        kw,
        spec.stride[1],
        (spec.padding[0] + spec.padding[1]) / h,
        *(1.0 if kernel_class(spec) == kind else 0.0 for kind in KERNEL_CLASSES + INT8_CLASSES),
    ]


def map_features(spec: MapSpec) -> list[float]:
    """Sizes, memory touched, and how blocks of channels divide them."""
    return [
        math.log(computed(spec)),
        math.log(spec.elements),
        spec.channels,
        spec.channels % BLOCK,
        _blocks(spec.channels),
        spec.height * spec.width,
        spec.width,
        spec.sources,
        spec.kernel[0] * spec.kernel[1],
        spec.kernel[1],
        spec.stride[1],
        *(1.0 if spec.kind == kind else 0.0 for kind in MAP_KINDS),
    ]


def _blocks(channels: int) -> int:
    return -(-channels // BLOCK)
