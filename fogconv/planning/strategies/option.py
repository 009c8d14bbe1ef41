"""Option: one way to compute one layer, with its inputs, its result and its cost."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from fogconv.ir.layers import Conv
from fogconv.ir.layout import Layout
from fogconv.ir.shard import Work
from fogconv.planning.cost import Traffic


@dataclass(frozen=True, slots=True)
class Option:
    """One way to compute one layer. ``needed`` are (tensor, layout number); ``made`` is the layout number of the result.

    ``target`` is the layout in which a partial result is summed. ``edge_s``: the slowest rank's work. ``sum_s``: sending
    and adding the summands, and the epilogue. ``stored`` are the weight elements on each rank. ``hidden_s`` of the work
    can be done while the inputs are being sent. ``joules``: what all this takes beyond the ranks' idle power.
    """

    mode: str
    work: tuple[Work, ...]
    needed: tuple[tuple[int, int], ...]
    made: int
    target: Layout | None
    edge_s: float
    sum_s: float
    sum_traffic: Traffic | None
    stored: tuple[int, ...]
    hidden_s: float = 0.0
    joules: float = 0.0


def weight_elements(layer: Conv, work: Work) -> int:
    """The number of a conv's weights that this work needs."""
    c = layer.spec.in_channels // layer.spec.groups if work.depth is None else len(work.depth)
    return len(work.output.channels) * c * layer.spec.kernel[0] * layer.spec.kernel[1]


def split_name(option: Option) -> str | None:
    """The cut for reports: "input:4", "output:4", "groups:4", "rows:5"; "tiles:2x3" for bands of as many tiles, or
    "tiles:2+3"; "rank:2" where that rank computes the whole layer, None where the master does."""
    parts = len({work.rank for work in option.work})
    if option.mode == "offload":
        return f"rank:{option.work[0].rank}"
    if parts < 2 and option.mode in ("local", "host", "relabel"):
        return None
    if option.mode == "tiles":
        bands = Counter(work.output.rows.start for work in option.work)
        sizes = [bands[start] for start in sorted(bands)]
        return f"tiles:{len(sizes)}x{sizes[0]}" if len(set(sizes)) == 1 else f"tiles:{'+'.join(map(str, sizes))}"
    return f"{option.mode}:{parts}"
