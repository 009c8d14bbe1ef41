"""Job: the measurement of one process of the testbed, as it is sent to a node."""

from __future__ import annotations

from typing import Any

import msgspec

from fogconv.ir import program as ir


class Job(msgspec.Struct, frozen=True):
    """``shares`` are the nodes' shares of a core, master first; ``cluster`` is an argument of `connect`; ``keys`` the
    folder with the master's keys, if links are encrypted."""

    net: str
    cluster: str
    shares: tuple[float, ...]
    scheme: str = "auto"
    wire: ir.Wire = "fp32"
    options: dict[str, Any] = {}
    sync_s: float | None = None
    keys: str = ""
