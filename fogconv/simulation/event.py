"""Event: what one rank did from one time to another, on one clock for all ranks."""

from __future__ import annotations

from typing import NamedTuple

ROWS = ("compute", "transmit", "receive")
"""The rows of a rank. Events that overlap within a row get further rows beside it."""


class Event(NamedTuple):
    """``kind`` colours and filters ("conv", "send", "wait", …); ``row`` is one of ROWS. One clock for all ranks."""

    rank: int
    name: str
    begin_s: float
    end_s: float
    kind: str
    row: str = "compute"
