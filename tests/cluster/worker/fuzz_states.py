"""Every message, in every state of a worker's life, from everybody: the worker lives, and then serves an honest master.

    python -m tests.cluster.worker.fuzz_states CORPUS -max_total_time=60

An input is a conversation: who speaks (the master, another master, a peer that attached, a stranger; or one of them is
lost), and the frames. The worker takes what comes in the state in which it is: joining, ready, waiting for weights, in the
middle of a run, or let go by its master. At the end its masters are lost, and an honest one comes, loads, runs, and leaves.
"""

from __future__ import annotations

import contextlib
import random
import re
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, get_args

import msgspec
import numpy as np

from fogconv.cluster.executor.executable import Executable
from fogconv.cluster.protocol import codec
from fogconv.cluster.protocol import messages as m
from fogconv.cluster.protocol.codec import Frame
from fogconv.cluster.transport.endpoint import Arrival, Event, Loss, Peer
from fogconv.cluster.worker.server import Worker
from fogconv.errors import WireError
from fogconv.ir import steps as ir
from fogconv.ir.geometry import ConvSpec, MapSpec, Region
from fogconv.ir.program import Program, encode
from tests.cluster.worker.wedges import KEY, SPEC, WEDGES, WEIGHT, honest
from tests.fuzzing import CORPUS, Fuzzer

MASTER, OTHER, PEER, STRANGER, HONEST = range(5)
LOST = 16
"""Added to who speaks: that one is lost."""
TOKEN, HONEST_TOKEN = b"m" * 16, b"h" * 16
MEMORY_BYTES = 1 << 40
PATIENCE_S = 1e6
"""The honest master's: a run that is not ended by an abort, or by a loss, would hang."""
PIXEL = Region.whole(16, 1, 1)
EXPECTED = ["Welcome", "Missing", "Stored", "Loaded", "Pong", "Data", "Done", "Status", "Bye"]
RELAY = Program(1, 3, 1, ("layer",), (ir.Buffer("x", PIXEL),), (ir.Recv(0, 0, PIXEL, 2, 7), ir.Send(0, 0, PIXEL, 0, 8)), {})
"""Waits for a peer's data, and sends it to the master."""
ODD: tuple[Any, ...] = (
    *(None, True, -1, 0, 1, 255, 2**16, 2**31, 2**62, 2**63, 2**64 - 1, -(2**63), 0.0, -1.0, 1e-300, 1e308),
    *(
        float("nan"),
        float("inf"),
        "",
        "x",
        "x" * 81,
        "x" * 5000,
        b"",
        bytes(16),
        TOKEN,
        [],
        [0],
        {},
        {0: ""},
        {2: "nowhere"},
    ),
)


class Script:
    """An Endpoint whose arrivals are a script, at whose end ``end`` is called. Peers are numbers; a link that the worker
    opens is a text. The last ``patient`` events wait until the worker is idle, on all its threads, or waits for them; of the
    others, one comes per step that it binds."""

    scheme = "script"

    def __init__(self, events: Sequence[Event], patient: int) -> None:
        self._events = deque(events)
        self._patient = patient
        self._came = False
        self.sent: dict[Peer, list[m.AnyMessage]] = {}
        self.gone: set[Peer] = set()
        self.end: Callable[[], None] = lambda: None
        self.look: Callable[[Event], None] = lambda event: None
        self.busy: Callable[[int], bool] = lambda left: False

    def connect(self, address: str, key: str | None = None) -> Peer:
        return address

    def receive(self, timeout_s: float) -> Event | None:
        if not timeout_s:  # it is busy, and looks at what has come
            self._came = not self._came
            if not self._came or len(self._events) <= self._patient:
                return None
        if len(self._events) <= self._patient and self.busy(len(self._events)):
            time.sleep(0.001)
            return None
        if not self._events:
            self.end()
            return None
        event = self._events.popleft()
        self.look(event)
        if isinstance(event, Loss):
            self.gone.add(event.peer)
        else:
            self.gone.discard(event.peer)
        return event

    def send(self, peer: Peer, frames: Sequence[Frame], *, ordered: bool = True, behind: bool = False) -> None:
        message, _ = codec.decode([bytes(frame) for frame in frames])
        self.sent.setdefault(peer, []).append(message)

    def probe(self, peer: Peer) -> bool:
        return peer not in self.gone

    def disconnect(self, peer: Peer) -> None: ...
    def channel(self, peer: Peer) -> None: ...
    def lease(self) -> None: ...
    def end_lease(self) -> None: ...
    def room(self, nbytes: int) -> None: ...
    def wake(self) -> None: ...
    def admit(self, keys: frozenset[str]) -> None: ...
    def trust(self, peer: Peer) -> None: ...
    def distrust(self, peer: Peer) -> None: ...
    def ignore(self, peer: Peer) -> None: ...
    def drop(self, peer: Peer) -> None: ...
    def hold(self, peer: Peer) -> None: ...
    def close(self) -> None: ...
    def diagnose(self, address: str) -> str:
        return ""


def try_one(data: bytes) -> Collection[str]:
    """Raises nothing but for a bug."""
    try:
        script = [
            (who, frames) for who, frames in msgspec.msgpack.decode(data, type=list[tuple[int, list[bytes]]]) if frames
        ]
    except (msgspec.MsgspecError, ValueError):
        return {"no script"}
    events: list[Event] = [Loss(who % LOST, "gone") if who & LOST else Arrival(who % 4, frames) for who, frames in script]
    events += [Loss(who, "gone") for who in (MASTER, OTHER, PEER, STRANGER)]
    honest_events = [Arrival(HONEST, [bytes(frame) for frame in codec.encode(*message)]) for message in _honest()]
    endpoint = Script([*events, *honest_events], len(honest_events))

    def end() -> None:
        nonlocal served
        served = len(worker._masters.sessions)
        worker.stop()

    def look(event: Event) -> None:
        """Who says what, in which state."""
        said = "loss" if isinstance(event, Loss) else "nonsense"
        with contextlib.suppress(WireError):
            said = said if isinstance(event, Loss) else type(codec.decode(event.frames)[0]).__name__
        traits.add(f"{worker.life.stage.value} {worker._active.doing}: {said} of {event.peer}")

    def busy(left: int) -> bool:
        """Whether the worker does something else than to wait for what the honest master says next."""
        with worker._board.lock:
            waits = all(isinstance(doing, m.Run) and session.peer == HONEST for session, doing in worker._active._tasks)
            sessions = worker._masters.sessions.values()
            return not waits or bool(worker._active and left < 3) or any(each.tasks for each in sessions)

    served = -1
    traits: set[str] = set()
    worker = Worker(endpoint, build=Executable, memory_limit_bytes=MEMORY_BYTES)
    endpoint.end, endpoint.look, endpoint.busy = end, look, busy
    worker.serve()
    kinds = [type(message).__name__ for message in endpoint.sent.get(HONEST, [])]
    assert sorted(kinds) == sorted(EXPECTED), kinds  # where its weights are here already, it is loaded before they come
    assert served == 0, "an honest master left, and is still served"
    answers = [message for peer, sent in endpoint.sent.items() if peer != HONEST for message in sent]
    return {*traits, *map(_kind, answers)}


def _honest() -> list[tuple[Any, ...]]:
    """What the honest master says; its weights are none that came before, for theirs may have come, too."""
    return [
        (m.Hello(HONEST_TOKEN, 1, 2, "honest", PATIENCE_S),),
        (m.Load(1, 1), encode(honest())),
        (m.Weight(KEY, WEIGHT.shape), WEIGHT.tobytes()),
        (m.Ping(2, True), b"there"),
        (m.Run(1, 1),),
        (m.Data(1, 1), np.ones(SPEC.input_elements, np.float32).tobytes()),
        (m.StatusQuery(3),),
        (m.Bye(),),
    ]


def _kind(answer: m.AnyMessage) -> str:
    told = answer.message if isinstance(answer, m.Failed) else answer.reason if isinstance(answer, m.Refused) else ""
    return f"{type(answer).__name__} {re.sub(r'[^a-zA-Z]+', ' ', told)[:50]}"


# Making conversations


def seeds() -> Mapping[str, bytes]:
    weight = (m.Weight(KEY, WEIGHT.shape), WEIGHT.tobytes())
    whole: list[tuple[int, Any]] = [
        (MASTER, (m.Hello(TOKEN, 1, 3, "fuzz", PATIENCE_S),)),
        (MASTER, (m.Peers({2: "peer"}),)),
        (PEER, (m.Attach(TOKEN, 2),)),
        (MASTER, (m.Load(1, 1), encode(RELAY))),
        (MASTER, (m.Load(2, 2), encode(_of_three(honest())))),
        (MASTER, weight),
        (MASTER, (m.Run(1, 1),)),
        (PEER, (m.Data(1, 7), bytes(64))),
        (MASTER, (m.Run(2, 1),)),
        (STRANGER, (m.StatusQuery(1),)),
        (MASTER, (m.Abort(2),)),
        (MASTER, (m.Measure(3, (SPEC,), 1, (MapSpec("pool", 5, 4, 4, kernel=(2, 2), stride=(2, 2)),)),)),
        (MASTER, (m.Bye(),)),
    ]
    found = {f"until {number}": _packed(whole[: number + 1]) for number in range(len(whole))}
    found["lost in a run"] = _packed([*whole[:7], (MASTER | LOST, (m.Bye(),))])
    found["peer lost in a run"] = _packed([*whole[:7], (PEER | LOST, (m.Bye(),))])
    found["two masters"] = _packed([whole[0], (OTHER, whole[0][1]), (MASTER | LOST, (m.Bye(),)), (OTHER, whole[0][1])])
    return found


def _of_three(program: Program) -> Program:
    return msgspec.structs.replace(program, ranks=3)


def _packed(said: Sequence[tuple[int, tuple[Any, ...]]]) -> bytes:
    return msgspec.msgpack.encode([(who, [bytes(frame) for frame in codec.encode(*what)]) for who, what in said])


def make(generator: random.Random, pool: list[bytes]) -> bytes:
    """A conversation of the pool, with messages put in, changed, left out, or said by somebody else."""
    r = generator
    script = msgspec.msgpack.decode(r.choice(pool or list(seeds().values())))
    if not isinstance(script, list):
        script = []
    for _ in range(r.choice([1, 1, 2, 3, 5])):
        at = r.randrange(len(script) + 1)
        match r.randrange(8):
            case 0 if script:
                del script[r.randrange(len(script))]
            case 1 if script:
                script.insert(at, r.choice(script))
            case 2 if script:
                script[r.randrange(len(script))][0] = r.choice([MASTER, OTHER, PEER, STRANGER])
            case 3 if script:
                script.insert(at, [r.choice([MASTER, OTHER, PEER, STRANGER]) | LOST, [b"lost"]])
            case _:
                who = r.choice([MASTER, MASTER, MASTER, OTHER, PEER, STRANGER])
                script.insert(at, [who, _message(r)])
    return msgspec.msgpack.encode(script[:40])


def _message(r: random.Random) -> list[bytes]:
    """A message of any type: right, or with some of its fields changed, or bytes."""
    kind = r.choice([*m.KINDS, m.Load, m.Run, m.Run, m.Data, m.Weight, m.Measure, m.Peers, m.Hello, m.Attach])
    fields = [_value(kind, name, r) for name in kind.__struct_fields__]
    if fields and r.random() < 0.3:
        fields[r.randrange(len(fields))] = r.choice(ODD)
    payload = _payload(kind, r)
    count = m.PAYLOADS.get(kind, 0)
    try:
        header = codec._PRELUDE.pack(codec.MAGIC, m.PROTOCOL_VERSION, m.KINDS.index(kind), count)
        header += count * codec._SIZE.pack(len(payload)) + msgspec.msgpack.encode(fields)
    except (OverflowError, ValueError):
        return [b"what?"]
    if r.random() < 0.05:
        header = header[: r.randrange(len(header))]
    return [header, *([payload] * count)]


def _value(kind: type[m.AnyMessage], name: str, r: random.Random) -> Any:
    """A value that is mostly right for a field."""
    match name:
        case "session":
            return r.choice([TOKEN, TOKEN, TOKEN, HONEST_TOKEN, bytes(16)])
        case "rank" | "ranks":
            return r.choice([0, 1, 2, 3, 65535])
        case "timeout_s":
            return r.choice([PATIENCE_S, 0.0, -1.0, 1e-9, 1e308, float("nan"), float("inf")])
        case "run" | "program" | "tag" | "request":
            return r.choice([0, 1, 1, 2, 3, 7, 8, 2**62])
        case "addresses":
            return r.choice([{2: "peer"}, {}, {0: "master", 1: "self", 2: "peer"}, {65535: "x" * 4096}])
        case "keys":
            return r.choice([{}, {2: "key"}]) if kind is m.Peers else r.choice([[], [KEY]])
        case "key":
            return r.choice([KEY, "0" * 32])
        case "shape":
            return r.choice([WEIGHT.shape, [], [2**62] * 8, [0], [135]])
        case "specs":
            return [msgspec.to_builtins(_spec(r)) for _ in range(r.choice([0, 1, 1, 2, 1024]))]
        case "maps":
            return [msgspec.to_builtins(_map(r)) for _ in range(r.choice([0, 0, 1, 2, 256]))]
        case "load":
            return [r.choice([0.0, 0.5, 1.0]), 1.5, 0.3, *r.choice([[], [None] * 5, [61.0, 0.9, 0.1, 0.2, 40.0]])]
        case "repeats":
            return r.choice([1, 1, 3, 1000])
        case "reply_bytes":
            return r.choice([0, 10, 2**20, 2**62])
        case "echo" | "throttled":
            return r.choice([True, False])
        case "seconds":
            return 1.0
        case "name" | "reason" | "message" | "error" | "host" | "isa" | "software" | "state" | "master":
            return r.choice(["", "fuzz", "[/x]", "\x1b[31m"])
    return r.choice([0, 1, 2**62])


def _spec(r: random.Random) -> ConvSpec:
    wedges = [made for made in (make_wedge() for make_wedge in WEDGES.values()) if isinstance(made, ConvSpec)]
    return r.choice([SPEC, SPEC, SPEC, *wedges])


def _map(r: random.Random) -> MapSpec:
    wedges = [made for made in (make_wedge() for make_wedge in WEDGES.values()) if isinstance(made, MapSpec)]
    kind = r.choice(["pool", "globalpool", "add", "affine", "gate", "permute", "copy", "maximum", "leaky_relu", "oracle"])
    return r.choice([MapSpec(kind, 5, 4, 3, r.choice([1, 2]), (2, 2), (2, 2)), *wedges])


def _payload(kind: type[m.AnyMessage], r: random.Random) -> bytes:
    if kind is m.Load:
        wedges = [made for made in (make_wedge() for make_wedge in WEDGES.values()) if isinstance(made, Program)]
        data = encode(r.choice([RELAY, RELAY, honest(), _of_three(honest()), *wedges]))
        if r.random() < 0.2:
            data = data[: r.randrange(len(data))] + r.randbytes(3)
        return data
    if kind is m.Weight:
        return r.choice([WEIGHT.tobytes(), WEIGHT.tobytes(), bytes(WEIGHT.nbytes), b"", b"x"])
    return r.choice([b"", bytes(64), np.ones(SPEC.input_elements, np.float32).tobytes(), r.randbytes(100)])


def prepare() -> None:
    assert set(m.KINDS) == set(get_args(m.AnyMessage))
    try_one(b"\x90")  # compiles what the honest master needs


FUZZER = Fuzzer("tests.cluster.worker.fuzz_states", try_one, make, seeds, prepare)
INPUTS = CORPUS / "states"

if __name__ == "__main__":
    FUZZER.main()
