"""Fuzzer: a hostfile is a list of hosts, or a sentence.

python -m tests.hardware.fuzz_hostfile CORPUS -max_total_time=60
"""

from __future__ import annotations

import random

from fogconv.hardware import hostfile
from fogconv.hardware.hostfile import MAX_SLOTS, read_hostfile
from tests import fuzzers
from tests.fuzzers import ROOT, Target, in_a_sentence, reworded, scratch

WORDS = (
    b"pi1",
    b":",
    b"2",
    b"#fogconv",
    b"port=5555",
    b"rate=2",
    b"slots=4",
    b"\n",
    b" ",
    b"# a comment\n",
    b"[::1]",
    b"10.0.0.2",
)


def one_input(data: bytes) -> None:
    file = scratch() / "hostfile"
    file.write_bytes(data)
    with in_a_sentence():
        hosts = read_hostfile(file)
        assert hosts
        for host in hosts:
            assert host.name and 1 <= host.slots <= MAX_SLOTS
            assert host.port is None or 1 <= host.port <= 65535
            assert host.rate is None or 0 < host.rate < float("inf")


def seeds() -> dict[str, bytes]:
    return {
        "example": (ROOT / "hostfile.example").read_bytes(),
        "slots": b"pi1:2\npi2:4\n# the fast one\n#fogconv port=6000 rate=2.5\npi3\n",
        "slots_5000_digits": b"pi1:" + b"1" * 5000,
        "no_text": b"\xff\xfe",
    }


def changed(data: bytes, generator: random.Random) -> bytes:
    return reworded(data, generator, WORDS)


TARGET = Target(one_input, seeds, changed, watched=(hostfile,))

if __name__ == "__main__":
    fuzzers.main(TARGET)
