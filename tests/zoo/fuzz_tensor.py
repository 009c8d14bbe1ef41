"""Fuzzer: a file in numpy's format becomes a tensor, or a sentence; no more memory is taken than the file has values.

python -m tests.zoo.fuzz_tensor CORPUS -max_total_time=60
"""

from __future__ import annotations

import io
import random
import struct
from functools import cache

import numpy as np

from fogconv.storage import array_file
from fogconv.storage.array_file import MAGIC
from fogconv.zoo.preprocessing import MOST_PIXELS, load_input
from tests import fuzzers
from tests.fuzzers import ODD_WORDS, Target, in_a_sentence, scrambled, scratch

SHAPES = (
    "(3, 4, 5)",
    "(1, 3, 4, 5)",
    "(0, 4, 5)",
    "(3, 60, 1)",
    "(999999, 999999, 999999)",
    "(3, -4, -5)",
    "()",
    "(60,)",
    "3",
)
KINDS = ("<f4", "<f8", ">f2", "|u1", "<i8", "|O", "|b1", "<c16", "|V3", "<U9", "<f16", "<M8[s]")


def one_input(data: bytes) -> None:
    file = scratch() / "x.npy"
    file.write_bytes(MAGIC + data)
    with in_a_sentence():
        x = load_input(file)
        assert isinstance(x, np.ndarray) and x.dtype == np.float32 and x.ndim == 3
        assert x.flags["C_CONTIGUOUS"] and np.isfinite(x).all()
        assert 0 < x.size <= len(data) and x[0].size <= MOST_PIXELS


@cache
def seeds() -> dict[str, bytes]:
    found = {"nothing": b""}
    values = np.arange(60).reshape(3, 4, 5)
    for kind in ("<f4", ">f4", "<f2", "<f8", "|u1", "<i4"):
        found[kind.strip("<>|") + str(kind[0] == ">")] = _saved(values.astype(kind))
    found["batch"] = _saved(values[None].astype(np.float32))
    found["columns"] = _saved(np.asfortranarray(values.astype(np.float32)))
    found["objects"] = _saved(np.array([None] * 60, object).reshape(3, 4, 5))
    found["nan"] = _saved(np.full((3, 4, 5), np.nan, np.float32))
    return found


def _saved(values: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values)
    return buffer.getvalue().removeprefix(MAGIC)


def changed(data: bytes, generator: random.Random) -> bytes:
    """Another header, with its right length."""
    if generator.random() < 0.4 or len(data) < 4:
        return scrambled(data, generator)
    shape, kind = generator.choice(SHAPES), generator.choice(KINDS)
    header = (
        f"{{'descr': '{kind}', 'fortran_order': {generator.choice(('False', 'True', '0'))}, 'shape': {shape}, }}".encode()
    )
    if generator.random() < 0.3:
        place = generator.randrange(len(header))
        header = header[:place] + generator.choice(ODD_WORDS) + header[place:]
    version = generator.choice((1, 1, 1, 2, 3, 9))
    size = struct.pack("<H", len(header) & 0xFFFF) if version == 1 else struct.pack("<I", len(header))
    return bytes((version, 0)) + size + header + data[-generator.choice((0, 60, 240, 480)) :]


TARGET = Target(one_input, seeds, changed, watched=(array_file,))

if __name__ == "__main__":
    fuzzers.main(TARGET)
