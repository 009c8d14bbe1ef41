"""Tiling: into how many bands of rows a map is cut, and into how many columns each band.

The ranks are the tiles, band by band from the top, each band from the left. Bands are as high as their ranks are fast, and
the tiles of a band as wide: so the cuts between columns need not line up from band to band, and any number of ranks makes
a tiling: five are a band of two above a band of three.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import isqrt

from fogconv.errors import InputError, shown
from fogconv.ir.shard import split

MOST_TILES = 33
"""As many ranks as a search uses."""
FORM = "write ROWSxCOLUMNS, such as 2x3"


@dataclass(frozen=True, slots=True)
class Tiling:
    """``rows`` bands of at most ``columns`` tiles."""

    rows: int
    columns: int

    @staticmethod
    def parse(text: str) -> Tiling:
        """Raises InputError for anything but two numbers, and for more than MOST_TILES tiles."""
        found = re.fullmatch(r"([0-9]{1,4})[x×]([0-9]{1,4})", text)
        if found is None:
            raise InputError(f"tiles {shown(text)}: {FORM}")
        tiling = Tiling(int(found[1]), int(found[2]))
        if not 1 <= tiling.tiles <= MOST_TILES:
            raise InputError(f"tiles {shown(text)} are {tiling.tiles} tiles; there must be 1 to {MOST_TILES}")
        return tiling

    def __str__(self) -> str:
        return f"{self.rows}x{self.columns}"

    @property
    def tiles(self) -> int:
        return self.rows * self.columns

    def bands(self, ranks: Sequence[int]) -> tuple[tuple[int, ...], ...]:
        """The ranks of each band. Where there are fewer ranks than tiles, bands have one rank less, the first ones first;
        of more ranks the last get none."""
        used = ranks[: self.tiles]
        count = min(self.rows, len(used))
        spans = split(len(used), [1.0] * count, order=range(count - 1, -1, -1))
        return tuple(tuple(used[span.slice()]) for span in spans)


def squarest(ranks: int) -> tuple[Tiling, ...]:
    """The tilings for so many ranks whose tiles are nearest to squares: one, or with rows and columns exchanged two."""
    most = max(2, isqrt(ranks))
    across = -(-ranks // most)
    return tuple(dict.fromkeys((Tiling(most, across), Tiling(across, most))))
