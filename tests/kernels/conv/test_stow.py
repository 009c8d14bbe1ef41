"""Packed weights outside memory: every call fetches them before it computes, drops them after, and gives the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fogconv.ir.geometry import ConvSpec
from fogconv.kernels import prepare_conv2d
from fogconv.kernels.maps.blocked import Blocked, aligned_zeros
from fogconv.storage.swap_file import SwapFolder
from tests.kernels.random_maps import Array, pack, unpack

PAD = (1, 1, 1, 1)
SPECS = {
    "linear": ConvSpec(64, 40, 3, 3, (3, 3)),
    "direct": ConvSpec(32, 24, 9, 8, (3, 3), stride=(2, 2), padding=PAD),
    "winograd4": ConvSpec(32, 32, 12, 12, (3, 3), padding=PAD),
    "depthwise": ConvSpec(32, 32, 7, 7, (3, 3), padding=PAD, groups=32),
    "grouped": ConvSpec(24, 24, 7, 7, (3, 3), padding=PAD, groups=2),
}


class Watched:
    """Weights in memory that are gone (NaN) outside fetch and drop."""

    def __init__(self, weights: Array) -> None:
        self.kept, self.array, self.calls = weights.copy(), aligned_zeros(weights.shape), ""
        self.array[...] = np.nan

    def fetch(self) -> None:
        self.array[...] = self.kept
        self.calls += "f"

    def drop(self) -> None:
        self.array[...] = np.nan
        self.calls += "d"


@pytest.mark.parametrize("algorithm", SPECS)
@pytest.mark.parametrize("threads", [1, 2])
def test_every_algorithm_computes_the_same_with_its_weights_elsewhere(algorithm: str, threads: int, tmp_path: Path) -> None:
    spec = SPECS[algorithm]
    rng = np.random.default_rng(0)
    x, weight, bias = (
        rng.standard_normal(shape, np.float32) for shape in (spec.input_shape, spec.weight_shape, (spec.out_channels,))
    )
    prepared = prepare_conv2d(spec, weight, bias, activation="relu", threads=threads, algorithm=algorithm)
    blocked = pack(x, prepared.wanted_margin)
    results = []
    watched: list[Watched] = []

    def watch(weights: Array) -> Watched:
        watched.append(Watched(weights))
        return watched[0]

    stowed = prepared.stow(watch)
    for each in (prepared, stowed, prepared.stow(SwapFolder(tmp_path).store), stowed.at(spec)):
        out = Blocked.empty(*spec.output_shape)
        call = each.bind(blocked, out)
        call()
        call()
        results.append(unpack(out))
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])
    assert watched[0].calls == "fdfd" * 2
    assert stowed.is_stowed and not prepared.is_stowed
    assert stowed.weight_bytes == prepared.weight_bytes - watched[0].array.nbytes < 1000
    if prepared.exact:
        np.testing.assert_array_equal(stowed.unpack()[0], weight)
