"""Boards: published times of one, and the links that give an emulated cluster the same ratio of wire to compute.

A node of a share of a core computes more slowly than a board. Links that are as many times slower than a board's Ethernet
keep the ratio, and with it what distributing gains:

    rate of a link = 941 Mbit/s × the board's published time ÷ one node's time, measured in the same run

A net without a published time takes the ratio of the yardstick.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from bench.fog.shaping import Rate
from fogconv.errors import InputError, unknown

ETHERNET = Rate(941e6)
"""TCP payload over gigabit Ethernet, on both boards."""
YARDSTICK = "resnet50"
PUBLISHED_SIZE = (224, 224)


@dataclass(frozen=True, slots=True)
class Board:
    """``seconds``: a published inference of each net, batch 1, at PUBLISHED_SIZE."""

    title: str
    seconds: Mapping[str, float]
    source: str


_NCNN = "github.com/Tencent/ncnn, benchmark/README.md"

BOARDS: Mapping[str, Board] = {
    "pi4": Board("Raspberry Pi 4, ncnn, fp32, 4 threads", {"vgg16": 0.547, "resnet50": 0.263}, _NCNN),
    "pi5-fp16": Board("Raspberry Pi 5, ncnn, fp16 arithmetic, 4 threads", {"vgg16": 0.129, "resnet50": 0.046}, _NCNN),
}


@dataclass(frozen=True, slots=True)
class Likeness:
    """Links like a board's. ``net``: the net of both times, which is YARDSTICK where the board's time of what runs is not
    published; ``node_s``: one node's time for it."""

    board: str
    net: str
    published_s: float
    node_s: float

    @property
    def rate(self) -> Rate:
        """To a thousandth of a Mbit/s."""
        return Rate(max(1000.0, round(ETHERNET.bits_per_s * self.published_s / self.node_s, -3)))

    def __str__(self) -> str:
        return (
            f"like {self.board}: {self.rate} links ({ETHERNET} × {self.published_s:g} s published for {self.net} ÷ "
            f"{self.node_s:.3f} s on one node)"
        )

    def as_dict(self) -> dict[str, Any]:
        board = BOARDS[self.board]
        return asdict(self) | {"rate": str(self.rate), "title": board.title, "source": board.source}


def board(name: str) -> Board:
    """Raises InputError for an unknown one."""
    if name not in BOARDS:
        raise InputError(unknown("board", name, BOARDS))
    return BOARDS[name]


def yardstick(name: str, net: str, size: tuple[int, int] | None) -> str:
    """The net whose published time counts for this one. Raises InputError for an unknown board."""
    published = net in board(name).seconds and size in (None, PUBLISHED_SIZE)
    return net if published else YARDSTICK
