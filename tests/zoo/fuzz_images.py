"""Fuzzer: a picture's file becomes a network's input, or a sentence; never more memory than the limit on pixels takes.

python -m tests.zoo.fuzz_images CORPUS -max_total_time=60
"""

from __future__ import annotations

import io
import random
import struct
import zlib
from functools import cache

import numpy as np
from PIL import Image, features

from fogconv.zoo import preprocessing
from fogconv.zoo.preprocessing import MOST_PIXELS, Preprocessing, load_image
from tests import fuzzers
from tests.fuzzers import Target, in_a_sentence, scrambled, scratch

PREPARE = Preprocessing((32, 48), 40)
SIDES = (0, 1, 2, 255, 256, 7999, 8000, 8001, 65535, 2**31 - 1, 2**31, 2**32 - 1)


def one_input(data: bytes) -> None:
    file = scratch() / "picture"
    file.write_bytes(data)
    with in_a_sentence():
        picture = load_image(file)
        assert picture.mode == "RGB"
        assert 0 < picture.width * picture.height <= MOST_PIXELS
        x = PREPARE(picture)
        assert x.shape == (3, 32, 48) and x.dtype == np.float32 and np.isfinite(x).all()


@cache
def seeds() -> dict[str, bytes]:
    values = np.random.default_rng(0).integers(0, 256, (12, 9, 4), np.uint8)
    wide = np.arange(108, dtype=np.uint16).reshape(12, 9) * 600
    pictures = {
        "l": Image.fromarray(values[..., 0]),
        "la": Image.fromarray(values[..., :2], "LA"),
        "rgb": Image.fromarray(values[..., :3]),
        "rgba": Image.fromarray(values),
        "cmyk": Image.fromarray(values, "CMYK"),
        "1": Image.fromarray(values[..., 0] > 127),
        "p": Image.fromarray(values[..., :3]).quantize(7),
        "i16": Image.fromarray(wide),
        "i": Image.fromarray(wide.astype(np.int32)),
        "f": Image.fromarray((wide / 65535).astype(np.float32)),
    }
    kinds = ["PNG", "JPEG", "BMP", "GIF", "TIFF", "PPM"]
    kinds += ["WEBP"] * features.check("webp") + ["AVIF"] * features.check("avif")
    found: dict[str, bytes] = {}
    for kind in kinds:
        for mode, picture in pictures.items():
            try:
                buffer = io.BytesIO()
                picture.save(buffer, kind)
            except (OSError, ValueError, KeyError):
                continue  # not every kind has every mode
            found[f"{kind.lower()}_{mode}"] = buffer.getvalue()
    turned = Image.Exif()
    turned[0x0112] = 6
    for name, kind, options in (
        ("exif", "JPEG", {"exif": turned.tobytes()}),
        ("progressive", "JPEG", {"progressive": True}),
        ("lzw", "TIFF", {"compression": "tiff_lzw"}),
        ("deflate", "TIFF", {"compression": "tiff_deflate"}),
        ("frames", "GIF", {"save_all": True, "append_images": [pictures["l"]]}),
    ):
        buffer = io.BytesIO()
        pictures["l"].save(buffer, kind, **options)
        found[name] = buffer.getvalue()
    found["eps"] = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(a) print\n"
    found["nothing"] = b""
    return found


def changed(data: bytes, generator: random.Random) -> bytes:
    """Another size in the header, or another chunk with the checksum that it needs."""
    if data.startswith(b"\x89PNG") and generator.random() < 0.7:
        return _changed_png(data, generator)
    if generator.random() < 0.4 and len(data) > 8:
        place = generator.randrange(min(len(data), 64))
        form = generator.choice(("<H", ">H", "<I", ">I"))
        number = struct.pack(form, generator.choice(SIDES) & (0xFFFF if "H" in form else 0xFFFFFFFF))
        return data[:place] + number + data[place + len(number) :]
    return scrambled(data, generator)


def _changed_png(data: bytes, generator: random.Random) -> bytes:
    chunks, place = [], 8
    while place + 12 <= len(data):
        (size,) = struct.unpack(">I", data[place : place + 4])
        chunks.append((data[place + 4 : place + 8], data[place + 8 : place + 8 + size]))
        place += 12 + size
    if not chunks:
        return scrambled(data, generator)
    which = generator.randrange(len(chunks))
    kind, body = chunks[which]
    if kind == b"IHDR" and len(body) == 13 and generator.random() < 0.7:
        width, height = generator.choice(SIDES), generator.choice(SIDES)
        depth, colour = generator.choice((1, 2, 4, 8, 16)), generator.choice((0, 2, 3, 4, 6))
        body = struct.pack(">IIBB", width, height, depth, colour) + body[10:]
    elif kind == b"IDAT" and generator.random() < 0.5:
        body = zlib.compress(bytes(generator.choice((0, 100, 10_000, 1_000_000))))
    else:
        body = scrambled(body, generator)
    chunks[which] = (kind, body)
    if generator.random() < 0.2:
        chunks.insert(which, generator.choice(chunks))
    packed = b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + packed


TARGET = Target(one_input, seeds, changed, watched=(preprocessing,))

if __name__ == "__main__":
    fuzzers.main(TARGET)
