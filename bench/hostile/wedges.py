"""Wedges: programs of a few KB that would keep a worker busy for ever. A worker has to refuse them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np

from fogconv.ir import steps as ir
from fogconv.ir.arrays import Array, weight_key
from fogconv.ir.geometry import ConvSpec, Region
from fogconv.ir.program import Program

Programs = tuple[Sequence[Program], Mapping[str, Array]]
"""The programs by rank, the worker's is 1, and their weights: the arguments of ``Session.load``."""

HUGE = 2**31
SPEC = ConvSpec(3, 5, 8, 8, (3, 3), padding=(1, 1, 1, 1))
INPUT, OUTPUT = Region.whole(3, 8, 8), Region.whole(5, 8, 8)


def _conv(batch: int = 1, **fields: Any) -> Programs:
    """The master sends a map, the worker sends back its conv; ``fields`` of the conv, or the ``batch``, are out of place."""
    weight = np.ones(SPEC.weight_shape, np.float32)
    key = weight_key(weight)
    buffers = (ir.Buffer("x", INPUT, (1, 1, 1, 1)), ir.Buffer("y", OUTPUT))
    master = (
        ir.Input(0, 0, 0, INPUT),
        ir.Send(0, 0, INPUT, 1, 1),
        ir.Recv(0, 1, OUTPUT, 1, 2),
        ir.Output(0, 0, 1, OUTPUT),
    )
    conv = ir.Conv(0, replace(SPEC, **fields), key, None, "relu", 0, INPUT, 1, OUTPUT)
    worker = (ir.Recv(0, 0, INPUT, 0, 1), conv, ir.Send(0, 1, OUTPUT, 0, 2))
    programs = (
        Program(0, 2, 1, ("conv",), buffers, master, {}),
        Program(1, 2, batch, ("conv",), buffers, worker, {key: weight.shape}),
    )
    return programs, {key: weight}


def _long() -> Programs:
    """A step that repeats itself a million times."""
    (master, worker), weights = _conv()
    receive, conv, send = worker.steps
    return (master, msgspec.structs.replace(worker, steps=(receive, *[conv] * 1_000_000, send))), weights


WEDGES: tuple[Callable[[], Programs], ...] = (
    lambda: _conv(height=HUGE),
    lambda: _conv(width=HUGE),
    lambda: _conv(padding=(HUGE, 1, 1, 1)),
    lambda: _conv(stride=(HUGE, 1)),
    lambda: _conv(dilation=(1, HUGE)),
    lambda: _conv(batch=HUGE),
    _long,
)
