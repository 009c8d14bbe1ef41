"""Home: the whole layer on the master. Every layer can be computed in this way, host layers only in this way.

mode         needs                  gives
local        On(0)                  On(0)
host         On(0)                  On(0)            (in torch)
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import get_args

from fogconv.ir.layers import Host, Layer
from fogconv.ir.plan import at_home
from fogconv.planning.strategies.family import Family, Scheme, Way
from fogconv.planning.strategies.shares import Shares


def _ways(layer: Layer, shares: Shares) -> Iterator[Way]:
    yield Way("host" if isinstance(layer, Host) else "local", at_home(shares.graph, layer).work)


HOME = Family(_ways, frozenset(get_args(Scheme)))
