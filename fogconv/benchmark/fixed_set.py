"""The fixed set: what `fogconv bench` measures. Results compare as long as SET is the same.

kernels   a conv of each kernel class, on every rank, with all of its threads
links     an empty message, and one megabyte each way, between the master and every worker
nets      whole nets at 224×224, on all ranks by the cheapest plan
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fogconv.ir.geometry import ConvSpec

SET = 1
"""To be counted up with every change of what is measured."""

_PAD = (1, 1, 1, 1)
KERNELS: Mapping[str, ConvSpec] = {
    "first 7×7 3→64 112×112": ConvSpec(3, 64, 224, 224, (7, 7), stride=(2, 2), padding=(3, 3, 3, 3)),
    "winograd 3×3 128→128 28×28": ConvSpec(128, 128, 28, 28, (3, 3), padding=_PAD),
    "direct 3×3 128→128 14×14": ConvSpec(128, 128, 28, 28, (3, 3), stride=(2, 2), padding=_PAD),
    "direct 1×1 256→256 28×28": ConvSpec(256, 256, 28, 28, (1, 1)),
    "depthwise 3×3 96 56×56": ConvSpec(96, 96, 56, 56, (3, 3), padding=_PAD, groups=96),
    "grouped 3×3 128→128 28×28": ConvSpec(128, 128, 28, 28, (3, 3), padding=_PAD, groups=32),
    "linear 2048→1000": ConvSpec(2048, 1000, 1, 1, (1, 1)),
}
"""By name; the sizes in the names are of the output."""
PAYLOAD_BYTES = 1_000_000


@dataclass(frozen=True, slots=True)
class Effort:
    """``passes`` over the kernels, ``rounds`` of messages per link; per net ``least_runs``, and more for ``net_s``
    seconds."""

    nets: tuple[str, ...]
    passes: int
    rounds: int
    least_runs: int
    net_s: float


WHOLE = Effort(("mobilenet_v2", "resnet18", "vgg16"), passes=7, rounds=11, least_runs=5, net_s=8.0)
QUICK = Effort(("mobilenet_v2", "resnet18"), passes=3, rounds=5, least_runs=3, net_s=2.0)
