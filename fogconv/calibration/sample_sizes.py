"""Sample sizes: the steps that a device times so that predictors can learn from them, and those that judge predictors.

random   sizes as CNNs have them, and their shards, of every type of step
nets     steps of published nets, from the smallest to the largest: predictors are judged on them
"""

from __future__ import annotations

import math
from itertools import starmap
from typing import Any

import numpy as np

from fogconv.hardware.latency.features import MAP_KINDS
from fogconv.ir.geometry import BLOCK, ConvSpec, MapSpec, StepSpec

MOST_MACS = 60_000_000
LEAST_MACS = 100_000
MOST_LINEAR = 1 << 23
"""Weights of a linear layer: 34 MB, twice while they are packed. Larger ones only read more of the same memory."""
BANDS = 4
"""Ranges of equal width, by logarithms, between the least and the most MACs of random convs for predictors."""


def random_convs(count: int, seed: int = 0, *, most_macs: int = MOST_MACS) -> tuple[ConvSpec, ...]:
    """Random geometries as CNNs have them, and their shards: any number of channels, odd sizes, every class."""
    rng = np.random.default_rng(seed)
    found: list[ConvSpec] = []
    while len(found) < count:
        spec = _random_conv(rng)
        if spec is not None and spec.macs <= most_macs:
            found.append(spec)
    return tuple(found)


def random_maps(count: int, seed: int = 0) -> tuple[MapSpec, ...]:
    """Random steps other than convs, of every kind by turns."""
    rng = np.random.default_rng(seed)
    return tuple(_random_map(rng, MAP_KINDS[number % len(MAP_KINDS)]) for number in range(count))


def _random_conv(rng: np.random.Generator) -> ConvSpec | None:
    kind = rng.choice(("1x1", "3x3", "3x3", "3x3s2", "5x5", "1x7", "depthwise", "grouped", "first", "linear"))
    size = int(rng.choice((7, 8, 14, 17, 28, 35, 56, 112, 224)))
    c, f = (_channels(rng, 9.5) for _ in range(2))
    kernel = {"1x1": (1, 1), "5x5": (5, 5), "1x7": (1, 7)}.get(kind, (3, 3))
    stride = 2 if kind in ("3x3s2", "first") else int(rng.choice((1, 2))) if kind == "depthwise" else 1
    groups = 1
    if kind == "first":
        c, f, size, kernel = 3, int(rng.choice((16, 24, 32, 64))), int(rng.choice((96, 112, 160, 224))), (3, 3)
    elif kind == "linear":
        c, size, kernel = max(128, _channels(rng, 13.0)), 1, (1, 1)
        f = max(1, round(2 ** rng.uniform(math.log2(LEAST_MACS), math.log2(MOST_LINEAR)) / c))
    elif kind == "depthwise":
        f = groups = c
    elif kind == "grouped":
        # As in ResNeXt and RegNet: groups of 4 to 64 channels.
        width = int(rng.choice((4, 8, 16, 24, 32, 64)))
        groups = max(2, round(c / width))
        c = f = groups * width
    pads = (kernel[0] // 2, kernel[0] // 2, kernel[1] // 2, kernel[1] // 2)
    spec = ConvSpec(c, f, size, size, kernel, (stride, stride), pads, groups=groups)
    return spec if spec.macs > LEAST_MACS else None


def _random_map(rng: np.random.Generator, kind: str) -> MapSpec:
    size = int(rng.choice((7, 8, 14, 17, 28, 35, 56, 112)))
    # Large maps have few channels.
    channels = min(_channels(rng, 11.0), max(BLOCK, 2**21 // size**2))
    more: dict[str, Any] = {}
    if kind == "pool":
        kernel, stride = ((2, 2), (3, 2), (3, 1))[rng.integers(3)]
        more = {"kernel": (kernel, kernel), "stride": (stride, stride)}
    elif kind in ("add", "maximum"):
        more = {"sources": 2}
    elif kind == "resample":
        more = {"kernel": ((1, 1), (2, 2))[rng.integers(2)]}
    elif kind == "interleave":
        more = {"sources": 4, "stride": (2, 2)}
    return MapSpec(kind, channels, size, size, **more)


def _channels(rng: np.random.Generator, most_log2: float) -> int:
    """Six times in ten whole blocks, as nets have them; else any number, as shards do."""
    channels = round(2 ** rng.uniform(4, most_log2))
    return max(BLOCK, round(channels / BLOCK) * BLOCK) if rng.random() < 0.6 else channels


def _conv(c: int, f: int, size: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> ConvSpec:
    return ConvSpec(c, f, size, size, (kernel, kernel), (stride, stride), (kernel // 2,) * 4, groups=groups)


_NET_CONVS = (
    # vgg16
    *starmap(_conv, ((3, 64, 224), (64, 64, 224), (64, 128, 112), (128, 128, 112), (128, 256, 56), (256, 256, 56))),
    *starmap(_conv, ((256, 512, 28), (512, 512, 28), (512, 512, 14))),
    # resnet50
    ConvSpec(3, 64, 224, 224, (7, 7), (2, 2), (3, 3, 3, 3)),
    *starmap(_conv, ((64, 256, 56, 1), (256, 64, 56, 1), (512, 128, 28, 1), (1024, 256, 14, 1), (512, 2048, 7, 1))),
    *starmap(_conv, ((64, 64, 56), (128, 128, 28), (256, 256, 14), (512, 512, 7))),
    *starmap(_conv, ((128, 128, 56, 3, 2), (256, 256, 28, 3, 2), (512, 512, 14, 3, 2))),
    # inception_v3
    *starmap(_conv, ((32, 64, 147), (48, 64, 35, 5), (96, 96, 35), (768, 192, 17, 1))),
    ConvSpec(160, 160, 17, 17, (1, 7), padding=(0, 0, 3, 3)),
    ConvSpec(192, 192, 17, 17, (7, 1), padding=(3, 3, 0, 0)),
    # detectors and text on large pictures
    *starmap(_conv, ((16, 32, 512, 1), (24, 96, 320, 1), (96, 96, 512, 3, 2, 96))),
    ConvSpec(3, 32, 1088, 1088, (3, 3), (2, 2), (1, 1, 1, 1)),
    # mobilenet_v2, efficientnet, resnext, regnet
    *starmap(_conv, ((16, 96, 112, 1), (144, 24, 56, 1), (576, 96, 14, 1), (320, 1280, 7, 1))),
    *starmap(
        _conv, ((96, 96, 112, 3, 2, 96), (144, 144, 56, 3, 1, 144), (576, 576, 14, 3, 1, 576), (672, 672, 14, 5, 1, 672))
    ),
    *starmap(_conv, ((128, 128, 56, 3, 1, 32), (512, 512, 14, 3, 1, 32), (408, 408, 14, 3, 1, 17))),
    *(
        ConvSpec(c, f, 1, 1, (1, 1))
        for c, f in ((512, 1000), (2048, 1000), (1280, 1000), (4096, 1024), (4096, 2048), (25088, 256))
    ),
)
_NET_MAPS = (
    *(MapSpec("pool", c, size, size, kernel=(2, 2), stride=(2, 2)) for c, size in ((64, 112), (128, 56), (512, 7))),
    MapSpec("pool", 64, 56, 56, kernel=(3, 3), stride=(2, 2)),
    MapSpec("pool", 192, 35, 35, kernel=(3, 3)),
    *(MapSpec("add", c, size, size, sources=2) for c, size in ((256, 56), (512, 28), (1024, 14), (24, 56))),
    *(MapSpec("globalpool", c, 7, 7) for c in (2048, 1280)),
    *(MapSpec("affine", c, size, size) for c, size in ((256, 56), (640, 14), (1024, 7))),
    *(MapSpec("gate", c, size, size) for c, size in ((144, 56), (672, 14))),
    *(MapSpec("permute", c, size, size) for c, size in ((116, 28), (464, 7))),
    *(MapSpec("leaky_relu", c, size, size) for c, size in ((64, 112), (256, 28))),
    MapSpec("copy", 256, 28, 28),
    # detectors and text on large pictures: maps that no cache holds
    MapSpec("add", 96, 240, 320, sources=2),
    MapSpec("affine", 32, 480, 640),
    MapSpec("gate", 96, 240, 320),
    *(MapSpec("transpose", c, size, size) for c, size in ((3, 640), (21, 520))),
    *(MapSpec("resample", c, size, size, kernel=(k, k)) for c, size, k in ((96, 80, 1), (64, 160, 2))),
    *(MapSpec("interleave", c, size, size, sources=4, stride=(2, 2)) for c, size in ((24, 160), (64, 80))),
)
NET_STEPS: tuple[StepSpec, ...] = (*_NET_CONVS, *_NET_MAPS)
"""Sizes that nets have; the largest has 1.8 GMAC."""


def sample_steps(convs: int, maps: int) -> tuple[StepSpec, ...]:
    """The steps of `NET_STEPS` among random ones, so many of each, each step once; convs come first."""
    steps = dict.fromkeys((*NET_STEPS, *spread_convs(convs), *random_maps(maps)))
    return tuple(sorted(steps, key=lambda spec: isinstance(spec, MapSpec)))


def spread_convs(count: int, seed: int = 0) -> tuple[ConvSpec, ...]:
    """Random convs for predictors: as many of each order of magnitude, up to the largest of `NET_STEPS`."""
    rng = np.random.default_rng(seed)
    limits = np.geomspace(LEAST_MACS, max(spec.macs for spec in _NET_CONVS), BANDS + 1)
    bands: list[list[ConvSpec]] = [[] for _ in range(BANDS)]
    each = math.ceil(count / BANDS)
    while min(map(len, bands)) < each:
        spec = _random_conv(rng)
        if spec is not None and spec.macs <= limits[-1]:
            bands[int(np.searchsorted(limits, spec.macs)) - 1].append(spec)
    return tuple(spec for group in zip(*(band[:each] for band in bands), strict=True) for spec in group)[:count]
