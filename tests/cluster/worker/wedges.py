"""Programs and measurements of a few KB that took a worker for ever: ``python -m tests.cluster.worker.wedges NAME``.

They are served by a worker with the real executor and little memory; then an honest program is loaded and run.
"""

from __future__ import annotations

import logging
import resource
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np

from fogconv.cluster.protocol import codec
from fogconv.cluster.protocol import messages as m
from fogconv.cluster.transport.endpoint import Arrival
from fogconv.cluster.transport.inproc import Hub
from fogconv.cluster.worker.server import Worker
from fogconv.ir import steps as ir
from fogconv.ir.arrays import weight_key
from fogconv.ir.geometry import ConvSpec, MapSpec, PoolSpec, Region
from fogconv.ir.program import Program, encode

LIMIT_BYTES = 600 << 20
SPEC = ConvSpec(3, 5, 8, 8, (3, 3), padding=(1, 1, 1, 1))
WEIGHT = np.ones(SPEC.weight_shape, np.float32)
KEY = weight_key(WEIGHT)
CHANNELS_KEY = weight_key(WEIGHT.reshape(-1, 1, 1, 1))
IN, OUT, POOLED = Region.whole(3, 8, 8), Region.whole(5, 8, 8), Region.whole(5, 4, 4)
POOL = PoolSpec("max", 5, 8, 8, (2, 2), (2, 2))
HUGE = 2**31


def honest() -> Program:
    """Recv → Conv → Pool → Send on rank 1 of 2."""
    return Program(
        1,
        2,
        1,
        ("layer",),
        (ir.Buffer("x", IN, (1, 1, 1, 1)), ir.Buffer("y", OUT), ir.Buffer("z", POOLED)),
        (
            ir.Recv(0, 0, IN, 0, 1),
            ir.Conv(0, SPEC, KEY, None, "relu", 0, IN, 1, OUT),
            ir.Pool(0, POOL, 1, OUT, 2, POOLED),
            ir.Send(0, 2, POOLED, 0, 2),
        ),
        {KEY: WEIGHT.shape},
    )


def _conv(**fields: Any) -> Program:
    program = honest()
    receive, conv, *others = program.steps
    assert isinstance(conv, ir.Conv)
    wedge = msgspec.structs.replace(conv, spec=replace(conv.spec, **fields))
    return msgspec.structs.replace(program, steps=(receive, wedge, *others))


def _pool(**fields: Any) -> Program:
    program = honest()
    receive, conv, pool, send = program.steps
    assert isinstance(pool, ir.Pool)
    wedge = msgspec.structs.replace(pool, spec=replace(pool.spec, **fields))
    return msgspec.structs.replace(program, steps=(receive, conv, wedge, send))


def _depthwise() -> Program:
    """One pixel with a stride that the code of a tile is unrolled over."""
    spec = ConvSpec(135, 135, 1, 1, (1, 1), (2**17, 2**17), groups=135)
    pixel = Region.whole(135, 1, 1)
    conv = ir.Conv(0, spec, CHANNELS_KEY, None, None, 0, pixel, 1, pixel)
    buffers = (ir.Buffer("x", pixel), ir.Buffer("y", pixel))
    return Program(1, 2, 1, ("layer",), buffers, (conv,), {CHANNELS_KEY: spec.weight_shape})


def _forward(**fields: Any) -> Program:
    spec = replace(SPEC, **fields)
    weight, x = ir.ArrayRecv(0, "w", spec.weight_shape, 0, 1), ir.ArrayRecv(0, "x", (1, 3, 8, 8), 0, 2)
    return Program(1, 2, 1, ("layer",), (), (weight, x, ir.ConvForward(0, spec, "x", "w", "y")), {})


WEDGES: Mapping[str, Callable[[], Program | ConvSpec | MapSpec]] = {
    "conv of 2³¹ rows": lambda: _conv(height=HUGE),
    "conv of 2³¹ columns": lambda: _conv(width=HUGE),
    "conv in a padding of 2³¹": lambda: _conv(padding=(HUGE, 1, 1, 1)),
    "conv of 2³¹ images": lambda: _conv(batch=HUGE),
    "conv with a stride of 2³¹": lambda: _conv(stride=(HUGE, 1)),
    "program of 2³¹ images": lambda: msgspec.structs.replace(honest(), batch=HUGE),
    "pool with 2³¹ images": lambda: _pool(batch=HUGE),
    "pool with a dilation of 2⁶²": lambda: _pool(dilation=(2**62, 1), padding=(2**62, 2**62, 0, 0)),
    "depthwise with a stride of 2¹⁷": _depthwise,
    "weights in 2³¹ dimensions": lambda: msgspec.structs.replace(honest(), weights={KEY: (2**62,) * 10_000}),
    "training step of 2³¹ rows": lambda: _forward(height=HUGE),
    "measurement of 2³¹ rows": lambda: replace(SPEC, height=HUGE),
    "measurement of 2³¹ images": lambda: replace(SPEC, batch=HUGE),
    "measurement in a padding of 2³¹": lambda: replace(SPEC, padding=(0, HUGE, 0, 0)),
    "measurement of 2³¹ channels": lambda: replace(SPEC, in_channels=HUGE, kernel=(1, 1)),
    "measurement of a shuffle of 2³¹ channels": lambda: MapSpec("permute", HUGE, 1, 1),
    "measurement of a sum of 2³¹ maps": lambda: MapSpec("add", 1, 1, 1, HUGE),
    "measurement of a pool of 2³¹ rows": lambda: MapSpec("pool", 1, 1, 1, kernel=(HUGE, 1), stride=(HUGE, 1)),
    "measurement of a copy of 2³¹ images": lambda: MapSpec("copy", 16, 64, 64, batch=HUGE),
    "measurement of a step of no kind": lambda: MapSpec("x" * 5000, 16, 64, 64),
}


class Talk:
    """A master's side of a conversation with a worker; nothing runs in the background."""

    def __init__(self, **options: Any) -> None:
        hub = Hub()
        self.worker = Worker(hub.endpoint("worker"), **options)
        self.master = hub.endpoint("master")

    def say(self, message: m.AnyMessage, *payloads: bytes) -> list[m.AnyMessage]:
        self.master.send("worker", codec.encode(message, *payloads))
        self.worker.attend()
        while (task := self.worker._next()) is not None and task[0] is not None:
            self.worker._do(*task)
            self.worker.attend()
        answers = []
        while (event := self.master.receive(0.0)) is not None:
            if isinstance(event, Arrival):
                answers.append(codec.decode(event.frames)[0])
        return answers


def serve(wedge: Program | ConvSpec | MapSpec) -> None:
    """Raises AssertionError for a worker that did not answer as it should."""
    talk = Talk(memory_limit_bytes=LIMIT_BYTES)
    talk.say(m.Hello(bytes(16), 1, 2, "wedge", 1.0))
    if isinstance(wedge, ConvSpec | MapSpec):
        convs, maps = ((wedge,), ()) if isinstance(wedge, ConvSpec) else ((), (wedge,))
        answers = talk.say(m.Measure(1, convs, 3, maps))
        assert [type(answer) for answer in answers] == [m.Failed], answers
    else:
        answers = talk.say(m.Load(1, 1), encode(wedge))
        if [type(answer) for answer in answers] == [m.Missing]:  # what binds it finds out
            weight = WEIGHT.reshape(-1, 1, 1, 1) if CHANNELS_KEY in wedge.weights else WEIGHT
            answers = talk.say(m.Weight(weight_key(weight), weight.shape), weight.tobytes())
        assert any(isinstance(answer, m.Failed) for answer in answers), answers
    answers = talk.say(m.Load(2, 2), encode(honest()))
    if m.Loaded not in map(type, answers):
        answers = talk.say(m.Weight(KEY, WEIGHT.shape), WEIGHT.tobytes())
    assert m.Loaded in map(type, answers), answers
    talk.say(m.Data(1, 1), np.ones(3 * 64, np.float32).tobytes())
    answers = talk.say(m.Run(1, 2))
    assert [type(answer) for answer in answers] == [m.Data, m.Done], answers


def main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
    logging.disable()
    serve(WEDGES[sys.argv[1]]())


if __name__ == "__main__":
    main()
