"""A coverage-guided fuzzer (atheris, `pip install atheris`) for everything that is decoded from the wire.

    python -m tests.cluster.fuzz_codec CORPUS -max_total_time=60

CORPUS is a folder of inputs; what reaches new code is added to it. A finding is any exception but WireError.
The first byte of an input says what the rest is: a header, header and payload in one frame, a program, wire formats.
"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

import msgspec

if __name__ == "__main__":
    # Before anything of fogconv is imported: instrumented is what is imported here. Numba can't read instrumented code.
    import atheris

    with atheris.instrument_imports(include=["fogconv.cluster", "fogconv.program", "fogconv.geometry"]):
        import fogconv.cluster.codec
        import fogconv.program  # noqa: F401

from fogconv import program as ir
from fogconv.cluster import codec
from fogconv.cluster import messages as m
from fogconv.errors import FogconvError, WireError
from fogconv.kernels import wire

CORPUS = Path(__file__).resolve().parents[1] / "corpus" / "codec"
LIMIT = 1 << 20
FORMATS = ("fp32", "fp16", "bf16", "zeros", "lz4", "zstd")


def one_input(data: bytes) -> None:
    """Decode ``data`` as a stranger's; raises nothing but for a bug."""
    if not data:
        return
    kind, rest = data[0] % 4, data[1:]
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
                    program = ir.decode(rest)
                    assert ir.decode(ir.encode(program)) is not None
            case _:
                if len(rest) > 2:
                    with contextlib.suppress(FogconvError):
                        decoded = wire.decode(rest[2:], FORMATS[rest[0] % len(FORMATS)], rest[1])
                        assert decoded.size == rest[1]


def seeds() -> dict[str, bytes]:
    """Honest inputs of every kind, by name."""
    found: dict[str, bytes] = {}
    for kind in m.KINDS:
        sizes = m.PAYLOADS.get(kind, 0)
        body = msgspec.msgpack.encode([0] * len(kind.__struct_fields__))
        header = codec._PRELUDE.pack(codec.MAGIC, m.PROTOCOL_VERSION, m.KINDS.index(kind), sizes)
        found[kind.__name__.lower()] = b"\0" + header + sizes * codec._SIZE.pack(4) + body + sizes * b"\1\2\3\4"
    hello = codec.encode(m.Hello(bytes(16), 1, 2, "fuzz", 1.0))[0]
    found["hello_right"] = b"\0" + bytes(hello)
    found["program"] = b"\2" + ir.encode(ir.Program(0, 1, 1, ("a",), (), (), {}))
    for number, form in enumerate(FORMATS):
        found[f"wire_{form}"] = bytes([3, number, 4]) + bytes(16)
    return found


def main() -> None:
    CORPUS.mkdir(parents=True, exist_ok=True)
    for name, data in seeds().items():
        (CORPUS / name).write_bytes(data)
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
