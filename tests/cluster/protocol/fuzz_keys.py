"""Fuzzer: a folder of keys gives keys that ZeroMQ takes, or a sentence; never those of a file that others could write.

    python -m tests.cluster.protocol.fuzz_keys CORPUS -max_total_time=60

The first byte of an input says how the files lie there (modes, links); then come the files `key`, `masters` and `workers`,
separated by a zero.
"""

from __future__ import annotations

import os
import random
import shutil
from functools import cache

import zmq

from fogconv.cluster.protocol import keys
from fogconv.cluster.protocol.keys import read_keys
from fogconv.storage import trusted
from tests import fuzzers
from tests.fuzzers import Target, in_a_sentence, reworded, scratch
from tests.strangers import STRANGER

FILES = ("key", "masters", "workers")
WAYS = ("plain", "group", "all", "link", "pipe", "folder", "stranger", "strange folder", "open folder", "readable")
PAIR = ("rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7", "JTKVSB%%)wK0E.X)V>+}o?pNmC{O&4W4b!Ni{Lh6")
"""The pair of ZeroMQ's own documentation (RFC 26)."""


def one_input(data: bytes) -> None:
    if not data:
        return
    way, which = WAYS[data[0] % len(WAYS)], FILES[data[0] // len(WAYS) % len(FILES)]
    contents = dict(zip(FILES, data[1:].split(b"\0"), strict=False))
    folder, elsewhere = scratch() / "keys", scratch() / "elsewhere"
    for each in (folder, elsewhere):
        shutil.rmtree(each, ignore_errors=True)
        each.mkdir(mode=0o700)
    for name, content in contents.items():
        (folder / name).write_bytes(content)
        (folder / name).chmod(0o600)
    refused = _arrange(way, which, folder, elsewhere) and which in contents
    try:
        with in_a_sentence():
            found = read_keys(folder)
            assert not refused, f"{which} was believed: {way}"
            for key in (found.own.public, *found.masters, *found.workers.values()):
                assert len(zmq.curve_public(key.encode())) == 40, "ZeroMQ could not read this key"
            assert zmq.curve_public(found.own.secret.encode()).decode() == found.own.public
            for name in found.workers:
                found.of_worker(f"tcp://{name}")
    finally:
        for each in (folder, elsewhere):
            each.chmod(0o700)


def _arrange(way: str, which: str, folder: keys.Path, elsewhere: keys.Path) -> bool:
    """Lay one file there as it should not lie; whether it must be refused."""
    file = folder / which
    if not file.exists():
        return False
    root = os.geteuid() == 0
    match way:
        case "group":
            file.chmod(0o620)
        case "all":
            file.chmod(0o602)
        case "readable":
            file.chmod(0o644)
            return which == "key"
        case "link":
            elsewhere.chmod(0o777)
            file.rename(elsewhere / which)
            file.symlink_to(elsewhere / which)
        case "pipe":
            file.unlink()
            os.mkfifo(file, 0o600)
        case "folder":
            file.unlink()
            file.mkdir(0o700)
        case "stranger" if root:
            os.chown(file, STRANGER, STRANGER)
        case "strange folder" if root:
            os.chown(folder, STRANGER, STRANGER)
        case "open folder":
            folder.chmod(0o777)
        case _:
            return False
    return True


@cache
def seeds() -> dict[str, bytes]:
    public, secret = (word.encode() for word in PAIR)
    assert zmq.curve_public(secret) == public, "an agreeing pair"
    files = [
        b"# a comment\n" + public + b"\n" + secret + b"\n",
        b"# the camera's\n" + public + b"\n",
        b"pi1 " + public + b"\npi2:5555 " + public + b"\n* " + public + b"\n",
    ]
    found = {f"way_{number}": bytes([number]) + b"\0".join(files) for number in range(len(WAYS) * len(FILES))}
    found["too_large"] = b"\0" + b"\0".join([files[0], b"#" * 40 + b"\n", files[2]])
    found["secret_too_large"] = b"\0" + public + b"\n" + b"#" * 40 + b"\n"
    return found


def changed(data: bytes, generator: random.Random) -> bytes:
    words = [word.encode() for word in PAIR] + [b"\0", b"# ", b"* ", b"pi1 ", b"#" * 40, b"0" * 40]
    if generator.random() < 0.2:
        return bytes([generator.randrange(len(WAYS) * len(FILES))]) + data[1:]
    return data[:1] + reworded(data[1:], generator, words)


TARGET = Target(one_input, seeds, changed, watched=(keys, trusted))

if __name__ == "__main__":
    fuzzers.main(TARGET)
