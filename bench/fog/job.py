"""Job: the measurement of one process of the testbed, as it is sent to a node."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from fogconv.ir import steps as ir

LAYER_SEEDS = 64
"""Simulations for the seconds of single layers: eight are enough for the whole."""

Baseline = Literal["torch", "faster", "usual"]
"""``usual``: torch for a classifier, the faster of torch and ONNX Runtime for anything else."""


class AloneJob(msgspec.Struct, frozen=True):
    """One node's baseline: a model at a size. A model that is a file of ONNX runs in ONNX Runtime."""

    net: str
    size: tuple[int, int] | None
    baseline: Baseline


class Job(msgspec.Struct, frozen=True):
    """``shares`` are the nodes' shares of a core, master first; ``cluster`` is an argument of `connect`; ``keys`` the
    folder with the master's keys, if links are encrypted."""

    net: str
    cluster: str
    shares: tuple[float, ...]
    scheme: str = "auto"
    wire: ir.Wire = "fp32"
    precision: str = "fp32"
    options: dict[str, Any] = {}
    size: tuple[int, int] | None = None
    keys: str = ""
    adapt: bool = False
    """Let the engine correct rates by what inferences find, as `fogconv run` does."""
    contest: int | None = None
    """Load nothing but on request: every named scheme, and as many random paths, seeded by this number."""
    picture: bool = False
    """See `bench.fog.workload.Subject`."""
