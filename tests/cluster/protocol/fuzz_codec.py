"""A coverage-guided fuzzer (atheris, `pip install atheris`) for everything that is decoded from the wire.

    python -m tests.cluster.protocol.fuzz_codec CORPUS -max_total_time=60

CORPUS is a folder of inputs; what reaches new code is added to it. A finding is any exception but WireError.
The first byte of an input says what the rest is: a header, header and payload in one frame, a program, wire formats, a
conversation with a worker, or frames as they come to an endpoint: whole, in parts, or by reference. Most of what comes is
MessagePack, which is decoded in C, where coverage is blind: so half of all inputs are made by changing a value of a decoded
one.
"""

from __future__ import annotations

import contextlib
import logging
import random
import struct
import sys
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

if __name__ == "__main__":
    import atheris

from fogconv.cluster.protocol import codec, lifecycle, peer_text
from fogconv.cluster.protocol import messages as m
from fogconv.cluster.transport.endpoint import Arrival, Loss, Peer
from fogconv.cluster.transport.zeromq import chunking, shared_memory
from fogconv.cluster.transport.zeromq.chunking import PART_BYTES, Assembly
from fogconv.cluster.transport.zeromq.shared_memory import ACCEPTED, Arena, Sharing, is_reference, is_sharing
from fogconv.cluster.worker import masters, server
from fogconv.cluster.worker.server import Worker
from fogconv.errors import FogconvError, WireError
from fogconv.hardware.latency import samples
from fogconv.hardware.latency.samples import DeviceLoad
from fogconv.hardware.topology import Topology
from fogconv.ir import program as ir_program
from fogconv.ir.arrays import weight_key
from fogconv.ir.geometry import ConvSpec, MapSpec, conv_spec, map_spec, region
from fogconv.ir.memory.algorithm import Vectors
from fogconv.ir.program import Program, decode, encode, expendable
from fogconv.ir.steps import gather, transfers
from fogconv.kernels.maps import wire
from fogconv.lowering.lower import lower
from fogconv.planning.scheme_options import SchemeOptions
from fogconv.planning.star import plan_star
from tests.chains import chain
from tests.fuzzers import functions_of

CORPUS = Path(__file__).resolve().parents[2] / "corpus" / "codec"
LIMIT = 1 << 20
FORMATS = ("fp32", "fp16", "bf16", "zeros", "lz4", "zstd")
TARGETS = 6
ARENA_BYTES = 1 << 20
ODD: tuple[Any, ...] = (
    None, True, -1, 0, 1, 255, 2**16, 2**31, 2**62, 2**63, 2**64 - 1, -(2**63), 0.5, float("nan"), float("inf"), 1e308,
    "", "x", "x" * 81, "x" * 5000, b"", bytes(16), [], [0], [[[[]]]], {}, {0: ""}, {"a": [1]},
)  # fmt: skip


def one_input(data: bytes) -> None:
    """Decode ``data`` as a stranger's; raises nothing but for a bug."""
    if not data:
        return
    kind, rest = data[0] % TARGETS, data[1:]
    with contextlib.suppress(WireError):
        match kind:
            case 0:
                message, payloads = codec.decode([rest], LIMIT)
                again, _ = codec.decode(codec.encode(message, *payloads), LIMIT)
                # NaN is not equal to itself; what is encoded is.
                assert codec.encode(again, *payloads)[0] == codec.encode(message, *payloads)[0]
            case 1:
                cut = rest[0] if rest else 0
                codec.decode([rest[1 : 1 + cut], rest[1 + cut :]], LIMIT)
            case 2:
                with contextlib.suppress(msgspec.MsgspecError, ValueError, RecursionError):
                    program = decode(rest)
                    assert decode(encode(program)) == program
                    assert program.peers is not None and expendable([program]) is not None
            case 3:
                if len(rest) > 2:
                    with contextlib.suppress(FogconvError):
                        decoded = wire.decode(rest[2:], FORMATS[rest[0] % len(FORMATS)], rest[1])
                        assert decoded.size == rest[1]
            case 4:
                converse(rest)
            case _:
                overhear(rest)


class Silence:
    """An Endpoint without a listener."""

    scheme = "silence"

    def connect(self, address: str, key: str | None = None) -> Peer:
        return address

    def disconnect(self, peer: Peer) -> None: ...
    def trust(self, peer: Peer) -> None: ...
    def distrust(self, peer: Peer) -> None: ...
    def ignore(self, peer: Peer) -> None: ...
    def drop(self, peer: Peer) -> None: ...
    def hold(self, peer: Peer) -> None: ...
    def send(self, peer: Peer, frames: object, *, ordered: bool = True, behind: bool = False) -> None: ...
    def channel(self, peer: Peer) -> None: ...
    def lease(self) -> None: ...
    def end_lease(self) -> None: ...
    def room(self, nbytes: int) -> None: ...
    def receive(self, timeout_s: float) -> None: ...
    def wake(self) -> None: ...
    def admit(self, keys: frozenset[str]) -> None: ...
    def close(self) -> None: ...
    def probe(self, peer: Peer) -> bool:
        return True

    def diagnose(self, address: str) -> str:
        return ""


def converse(data: bytes) -> None:
    """A worker's first minutes: each piece is who speaks (its master, a peer, a stranger, or a loss), how long, and what.

    What it is asked for is done at once, but nothing can be built that has steps.
    """
    worker = Worker(Silence(), build=_build, memory_limit_bytes=1 << 40)
    while len(data) > 2:
        who, size = data[0] % 4, data[1] + 1
        piece, data = data[2 : 2 + size], data[2 + size :]
        worker._handle(Loss(piece[0] % 3, "") if who == 3 else Arrival(who, [piece]))
        while (task := worker._next()) is not None and task[0] is not None:
            worker._do(*task)
    worker.stop()


def overhear(data: bytes) -> None:
    """What comes to an endpoint from two peers: each piece is who, what, how long, and the bytes.

    An offer of memory names a process and its descriptor: what is offered here is a real one, changed by the piece's bytes.
    """
    sharing, assembly = Sharing(LIMIT), Assembly(LIMIT)
    while len(data) > 2:
        peer, what, size = data[0] % 2, data[1] % 6, data[2]
        piece, data = data[3 : 3 + size], data[3 + size :]
        first, second = (piece[1 : 1 + piece[0]], piece[1 + piece[0] :]) if piece else (b"", b"")
        frames: list[bytes]
        match what:
            case 0:
                sharing.forget(peer)
                assembly.forget(peer)
                continue
            case 1:
                changes = piece.ljust(len(arena().offer), b"\0")
                frames = [bytes(a ^ b for a, b in zip(arena().offer, changes, strict=False)), ACCEPTED]
            case 2:
                frames = [first, b"", second]
            case 3:
                frames = [first, second.ljust(PART_BYTES, b"\0")]
            case 4:
                frames = [piece]
            case _:
                frames = [first, second]
        with contextlib.suppress(WireError):
            if is_reference(frames):
                message = sharing.resolve(peer, frames)
            elif is_sharing(frames):
                answer = sharing.hear(peer, frames)
                assert answer is None or is_sharing(answer)
                continue
            else:
                message = assembly.add(peer, frames)
            if message is not None:
                _, payloads = codec.decode(message, LIMIT)
                assert all(len(bytes(payload)) <= LIMIT for payload in payloads)
    sharing.close()


@cache
def arena() -> Arena:
    return Arena(ARENA_BYTES)


class Nothing:
    """What comes of a program without steps."""

    memory_bytes = 0
    times = wire.np.empty((0, 2), wire.np.int64)

    def run(self, *arguments: Any) -> list[Any]:
        return []


def _build(program: Program, weights: Any, **options: Any) -> Any:
    if program.steps:
        raise WireError("nothing is computed here")
    return Nothing()


def mutated(data: bytes, generator: random.Random) -> bytes:
    """One value of the MessagePack in an input changed; the input itself where there is none."""
    head = {0: 1 + codec._PRELUDE.size, 2: 1}.get(data[0] % TARGETS if data else 9)
    if head is None:
        return data
    if head > 1 and len(data) > head and data[head - 1]:
        head += codec._SIZE.size
    try:
        tree = msgspec.msgpack.decode(data[head:])
        return data[:head] + msgspec.msgpack.encode(_changed(tree, generator))
    except (msgspec.MsgspecError, ValueError, RecursionError, OverflowError, TypeError):
        return data


def _changed(tree: Any, generator: random.Random) -> Any:
    if isinstance(tree, dict) and tree and generator.random() < 0.8:
        key = generator.choice(list(tree))
        return {**tree, key: _changed(tree[key], generator)}
    if not isinstance(tree, list) or not tree or generator.random() < 0.1:
        return generator.choice(ODD)
    place = generator.randrange(len(tree))
    match generator.randrange(8):
        case 0:
            return tree[:place] + tree[place + 1 :]
        case 1:
            return [*tree[:place], tree[place], *tree[place:]]
        case _:
            return [*tree[:place], _changed(tree[place], generator), *tree[place + 1 :]]


def mutate(data: bytes, max_size: int, seed: int) -> bytes:
    """libFuzzer's custom mutator."""
    generator = random.Random(seed)
    if generator.random() < 0.5:
        data = mutated(data, generator)
        if generator.random() < 0.7:
            return data[:max_size]
    return bytes(atheris.Mutate(data, max_size))


def seeds() -> dict[str, bytes]:
    """Honest inputs of every kind, by name."""
    found: dict[str, bytes] = {}
    for kind in m.KINDS:
        sizes = m.PAYLOADS.get(kind, 0)
        body = msgspec.msgpack.encode([0] * len(kind.__struct_fields__))
        header = codec._PRELUDE.pack(codec.MAGIC, m.PROTOCOL_VERSION, m.KINDS.index(kind), sizes)
        found[kind.__name__.lower()] = b"\0" + header + sizes * codec._SIZE.pack(4) + body + sizes * b"\1\2\3\4"
    for message in honest():
        frames = codec.encode(message, *([b"\1\2\3\4"] * m.PAYLOADS.get(type(message), 0)))
        found[f"{type(message).__name__.lower()}_right"] = b"\0" + b"".join(bytes(frame) for frame in frames)
    found["program"] = b"\2" + encode(Program(0, 1, 1, ("a",), (), (), {}))
    graph = chain(16, 16, size=4)
    plan = plan_star(graph, Topology.uniform(3, 1e9, 1e12), SchemeOptions(threshold=0.0))
    for program in lower(graph, plan).programs:
        found[f"program_{program.rank}"] = b"\2" + encode(program)
    for number, form in enumerate(FORMATS):
        found[f"wire_{form}"] = bytes([3, number, 4]) + bytes(16)
        found[f"wire_{form}_right"] = bytes([3, number, 4]) + bytes(wire.encode(wire.np.ones(4, wire.np.float32), form))
    said = [(0, m.Hello(bytes(16), 1, 3, "fuzz", 1.0)), (1, m.Attach(bytes(16), 2)), (2, m.StatusQuery(1))]
    said += [(0, message) for message in honest() if not isinstance(message, m.Hello | m.Bye)]
    talk = b""
    for who, message in said:
        piece = b"".join(map(bytes, codec.encode(message, *([b"\1\2\3\4"] * m.PAYLOADS.get(type(message), 0)))))
        talk += bytes([who, len(piece) - 1]) + piece
    found["conversation"] = b"\4" + talk + bytes([3, 0, 1])
    weight = wire.np.ones(1, wire.np.float32)
    needy = encode(Program(1, 2, 1, ("a",), (), (), {weight_key(weight): (1,)}))
    asked = [
        codec.encode(m.Hello(bytes(16), 1, 3, "fuzz", 1.0)),
        codec.encode(m.Load(1, 1), needy),
        codec.encode(m.Weight(weight_key(weight), (1,)), weight.tobytes()),
        codec.encode(m.Load(2, 2), needy),
        codec.encode(m.Run(1, 2)),
    ]
    found["loading"] = b"\4" + b"".join(bytes([0, len(piece) - 1]) + piece for piece in map(b"".join, asked))
    header, _ = codec.encode(m.Data(1, 1), bytes(4096))
    long, _ = codec.encode(m.Data(1, 1), bytes(2 * PART_BYTES))
    references = [struct.pack("<QIQQ", 4096, 1, 4160, 4096), struct.pack("<QIQQ", 4100, 2, 8000, 4096)]
    heard = [(0, 1, b"")]
    heard += [(0, 2, bytes([len(header)]) + header + reference) for reference in references]
    found["by_reference"] = b"\5" + _pieces(heard)
    found["in_parts"] = b"\5" + _pieces(
        [(0, 3, bytes([len(long)]) + long), (1, 0, b""), (0, 3, b""), (0, 5, bytes([len(long)]) + long), (0, 4, b"")]
    )
    return found


def _pieces(heard: list[tuple[int, int, bytes]]) -> bytes:
    return b"".join(bytes([peer, what, len(piece)]) + piece for peer, what, piece in heard)


def honest() -> list[m.AnyMessage]:
    """Messages as masters and workers send them."""
    return [
        m.Hello(bytes(16), 1, 2, "fuzz", 1.0),
        m.Welcome(
            *(1, "pi", 7, 4, 0, 1 << 20, "avx2", "0.1"),
            *(m.Machine("ab", "cd", (0, 1), 1.5), "ef", ("uint8",), Vectors(8, True)),
        ),
        m.Peers({1: "tcp://a:1", 2: "tcp://b:2"}, {1: "k"}),
        m.Load(1, 1),
        m.Missing(1, ("key",)),
        m.Weight("key", (1,)),
        m.Run(1, 1),
        m.Data(1, 1),
        m.Abort(1),
        m.Ping(1, True),
        m.Unload(1),
        m.Measure(1, (ConvSpec(3, 5, 8, 8, (3, 3)),), 3, (MapSpec("pool", 5, 4, 4, kernel=(2, 2), stride=(2, 2)),)),
        m.Measured(1, (1e-3, 1e-4), 1e9, (9e-4, 9e-5), 0.5, (LOAD, DeviceLoad(0.5))),
        m.StatusQuery(1),
        m.Status(1, "ready", "fuzz", 3.0, 1, 1, 1, 4, 1 << 20, 0, 1, 1, 2, LOAD, False, True),
        m.Bye(),
    ]


LOAD = DeviceLoad(0.5, 1.5, 0.3, 61.0, 0.9, 0.1, 0.2, 40.0)


def main() -> None:
    CORPUS.mkdir(parents=True, exist_ok=True)
    for name, data in seeds().items():
        (CORPUS / name).write_bytes(data)
    received = (codec, peer_text, lifecycle, server, masters, chunking, shared_memory)
    shapes = (ir_program, gather, transfers, conv_spec, map_spec, region, samples)
    decoders = functions_of((*received, *shapes))
    for function in (*decoders, wire.decode, wire._decompress, wire._decode_zeros, wire._expect):
        atheris.instrument_func(function)
    logging.disable()
    atheris.Setup(sys.argv, one_input, custom_mutator=mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
