"""Payloads between ranks: a region of a map as a flat array, in 32 or 16 bits, or compressed without loss.

Order of a payload, for each image: for each full group of 16 channels, counted from the region's first channel,
rows × columns × 16 lanes; then for the last ``channels % 16`` channels rows × columns × that many lanes. So a region of
whole blocks is copied row by row, and nothing but the region itself is sent. Everything is little-endian.

    wire     payload
    fp32     unchanged
    fp16     IEEE half, rounded to nearest even; beyond 65504 infinity; NaN stays NaN
    bf16     the upper 16 bits, rounded to nearest even; NaN stays NaN
    zeros    lossless: one bit per element, least significant first, in whole 32-bit words, then those that are not +0.0
    lz4      lossless: one lz4 block
    zstd     lossless: one zstd frame (level 1)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fogconv.errors import DependencyError, KernelError, WireError, with_extra
from fogconv.ir.arrays import Array
from fogconv.ir.geometry import BLOCK, NARROW
from fogconv.kernels.codegen import vector
from fogconv.kernels.codegen.jit import jit
from fogconv.kernels.maps import copies, narrow
from fogconv.kernels.maps.blocked import Blocked
from fogconv.kernels.maps.bound import Bound, address_of, bind, place, sequence

Buffer = bytes | bytearray | memoryview | NDArray[Any]

DTYPES: dict[str, np.dtype[Any]] = {
    "fp32": np.dtype(np.float32),
    "fp16": np.dtype(np.float16),
    "bf16": np.dtype(np.uint16),
    "uint8": np.dtype(np.uint8),
    "int32": np.dtype(np.int32),
}
"""The element types in which ``bind_extract`` writes and ``bind_insert`` reads; bf16's bits are sent as uint16. Maps of
uint8 and int32 are sent as they are."""

UNCHANGED = ("fp32", "uint8", "int32")

LOSSLESS = ("zeros", "lz4", "zstd")

_KINDS = {np.dtype(np.float32): 0, np.dtype(np.float16): 1, np.dtype(np.uint16): 2}


PART_ELEMENTS = 16
"""The parts of a message start at multiples of this."""

PAYLOAD_NUMBER = 4
"""The index of the payload's address among the numbers of `bind_insert`."""


def wire_elements(batch: int, channels: int, rows: int, columns: int) -> int:
    """Elements of a region's payload."""
    return batch * channels * rows * columns


def spans(batch: int, regions: Sequence[tuple[int, int, int]]) -> tuple[list[slice], int]:
    """The elements of a message of several regions (channels, rows, columns): each one's, and how many there are."""
    found, at = [], 0
    for region in regions:
        at = -(-at // PART_ELEMENTS) * PART_ELEMENTS
        elements = wire_elements(batch, *region)
        found.append(slice(at, at + elements))
        at += elements
    return found, at


def bind_extract(source: Blocked, first_channel: int, channels: int, out: NDArray[Any]) -> Bound:
    """Write ``channels`` channels of a view, from ``first_channel`` on, into a flat array of one of ``DTYPES``.

    Channels count from the view's first lane. Raises KernelError for channels that don't exist and for another size.
    """
    if source.data.dtype != np.float32:
        return copies.bind_extract(source, first_channel, channels, out)
    kind = _check(source, first_channel, channels, out, "output")
    if not out.flags.writeable:
        raise KernelError("the output array is read-only")
    at = place("source", source, narrow=True)
    first, shift = divmod(first_channel, BLOCK)
    last = (first_channel + channels - 1) // BLOCK
    numbers = (*at, address_of(out), source.batch, channels, source.height, source.width, shift, first, last)
    kernel = narrow.extract(_store(kind), _size(kind)) if source.lanes == NARROW else _extract(kind, shift != 0)
    return bind(kernel, numbers, source.data, out)


def in_order(source: Blocked, first_channel: int, channels: int) -> Array | None:
    """The payload of these channels as a flat view of memory, where it is contiguous; else None."""
    shape = (source.batch, channels, source.height, source.width)
    if first_channel or channels != source.channels or channels % source.lanes or 0 in shape:
        return None
    inner = source.interior
    return inner.reshape(-1) if inner.flags.c_contiguous else None


def bind_insert(
    payload: NDArray[Any], target: Blocked, first_channel: int, channels: int, accumulate: bool = False
) -> Bound:
    """The other way round: write a payload into a view's channels, or add it to them where ``accumulate`` is set."""
    if target.data.dtype != np.float32:
        return copies.bind_insert(payload, target, first_channel, channels, accumulate)
    kind = _check(target, first_channel, channels, payload, "payload")
    if channels == 0:
        return sequence(())
    at = place("target", target, narrow=True)
    block, start = divmod(first_channel, BLOCK)
    numbers = (
        *(at.address + block * at.block, at.image, at.block, at.row),
        *(address_of(payload), target.batch, channels, target.height, target.width, start),
    )
    if target.lanes == NARROW:
        kernel = narrow.insert(_load(kind), _size(kind), accumulate)
    else:
        kernel = _insert(kind, start != 0, accumulate)
    return bind(kernel, numbers, target.data, payload)


def bind_inserts(
    dtype: Any, target: Blocked, first_channel: int, channels: int, accumulate: bool = False
) -> Callable[[NDArray[Any]], None]:
    """``bind_insert`` for many payloads: everything but the payload's address is resolved once.

    The call takes flat contiguous payloads of ``dtype`` (one of ``DTYPES``) and raises WireError for any other.
    """
    count = wire_elements(target.batch, channels, target.height, target.width)
    room, expected = np.empty(count, dtype), np.dtype(dtype)
    bound = bind_insert(room, target, first_channel, channels, accumulate)
    # What `bind` makes is the compiled kernel over one array of numbers.
    kernel, numbers = (bound.func, bound.args[0]) if isinstance(bound, partial) else (None, None)

    def insert(payload: NDArray[Any]) -> None:
        if payload.dtype != expected or payload.shape != (count,) or payload.strides != (expected.itemsize,):
            raise WireError(f"received a payload of {payload.dtype} {payload.shape}; {expected} ({count},) was expected")
        if numbers is not None and kernel is not None:
            numbers[PAYLOAD_NUMBER] = address_of(payload)
            kernel(numbers)
        else:
            room[:] = payload
            bound()

    return insert


def encode(payload: Array, wire: str) -> memoryview:
    """Encode a flat fp32 payload for the wire. Raises KernelError for another array, DependencyError for a missing
    library."""
    if payload.dtype != np.float32 or payload.ndim != 1 or not payload.flags.c_contiguous:
        raise KernelError(f"a payload is a contiguous 1-D float32 array, not {payload.dtype} {payload.shape}")
    match wire:
        case "fp32":
            return _bytes(payload)
        case "fp16" | "bf16":
            return _bytes(_convert(payload, DTYPES[wire]))
        case "zeros":
            return _encode_zeros(payload)
        case "lz4":
            return memoryview(_library("lz4.block").compress(_bytes(payload), store_size=False))
        case "zstd":
            return memoryview(_library("zstandard").ZstdCompressor(level=1).compress(_bytes(payload)))
    raise KernelError(f"there is no wire format {wire!r}")


def decode(buffer: Buffer, wire: str, elements: int) -> Array:
    """Decode a flat fp32 payload of ``elements`` elements; for fp32 a view of the buffer itself.

    Raises WireError for a buffer that ``encode`` can't have made from that many elements. Never allocates more memory
    than the elements and the buffer need.
    """
    data = _bytes(np.frombuffer(buffer, np.uint8) if len(buffer) else np.empty(0, np.uint8))
    if elements < 0:
        raise WireError(f"a payload can't have {elements} elements")
    match wire:
        case "fp32" | "fp16" | "bf16":
            dtype = DTYPES[wire]
            _expect(wire, len(data), elements * dtype.itemsize, elements)
            narrow = np.frombuffer(data, dtype)
            return narrow if wire == "fp32" else _convert(narrow, np.dtype(np.float32))
        case "zeros":
            return _decode_zeros(data, elements)
        case "lz4":
            return _decompress(
                lambda: _library("lz4.block").decompress(data, uncompressed_size=elements * 4), wire, elements
            )
        case "zstd":
            zstd = _library("zstandard")

            def decompress() -> bytes:
                # Check the size that the frame states before decompressing it.
                _expect(wire, zstd.frame_content_size(data), elements * 4, elements)
                found: bytes = zstd.ZstdDecompressor().decompress(data, max_output_size=elements * 4, allow_extra_data=False)
                return found

            return _decompress(decompress, wire, elements)
    raise WireError(f"there is no wire format {wire!r}")


def warm_up(wire: str) -> None:
    """Compile and import what a format needs, so that the first inference does not. Raises as ``encode`` does."""
    decode(encode(np.zeros(17, np.float32), wire), wire, 17)


def _bytes(array: NDArray[Any]) -> memoryview:
    return array.view(np.uint8).data


def _check(view: Blocked, first: int, channels: int, array: NDArray[Any], name: str) -> int:
    if array.dtype not in _KINDS:
        raise KernelError(f"the {name} is of {array.dtype}; it must be float32, float16, or uint16 for bf16")
    elements = wire_elements(view.batch, channels, view.height, view.width)
    if array.shape != (elements,) or not array.flags.c_contiguous:
        raise KernelError(f"the {name} has the shape {array.shape}; the region has {elements} contiguous elements")
    if channels < 0 or first < 0 or first + channels > view.channels:
        raise KernelError(f"channels {first} to {first + channels} do not lie inside the view's {view.channels}")
    return _KINDS[array.dtype]


def _expect(wire: str, found: int, wanted: int, elements: int) -> None:
    if found != wanted:
        raise WireError(f"a {wire} payload of {elements} elements has {found} bytes; it must have {wanted}")


def _decompress(decompress: Callable[[], bytes], wire: str, elements: int) -> Array:
    try:
        raw = decompress()
    except (WireError, DependencyError):
        raise
    except Exception as error:  # each library raises its own errors, and also ValueError and MemoryError
        raise WireError(f"a {wire} payload of {elements} elements can't be decompressed: {error}") from error
    _expect(wire, len(raw), elements * 4, elements)
    return np.frombuffer(raw, np.float32)


@cache
def _library(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise DependencyError(
            f"the wire format needs {name.partition('.')[0]}, which is not installed: {with_extra('wire')}"
        ) from error


def _convert(source: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    out = np.empty(source.shape, dtype)
    narrow = out if dtype != np.float32 else source
    numbers = (address_of(source), address_of(out), source.size)
    bind(_converter(_KINDS[narrow.dtype], dtype != np.float32), numbers)()
    return out


def _encode_zeros(payload: Array) -> memoryview:
    words = -(-payload.size // 32)
    out = np.empty(words + payload.size + 1, np.uint32)  # one more: a value is stored before it is known whether it counts
    found = np.zeros(1, np.int64)
    bind(_squeeze, (address_of(payload), payload.size, address_of(out), address_of(out) + words * 4, address_of(found)))()
    return _bytes(out[: words + int(found[0])])


def _decode_zeros(data: memoryview, elements: int) -> Array:
    words = -(-elements // 32)
    if len(data) < words * 4:
        raise WireError(f"a zeros payload of {elements} elements has {len(data)} bytes; its bitmap alone needs {words * 4}")
    bitmap = int.from_bytes(data[: words * 4], "little")
    if bitmap >> elements:
        raise WireError(f"a zeros payload has bits beyond its {elements} elements")
    _expect("zeros", len(data), words * 4 + bitmap.bit_count() * 4, elements)
    source = np.frombuffer(data, np.uint8)
    out = np.empty(elements, np.float32)
    start = address_of(source)
    bind(_spread, (start, start + words * 4, address_of(out), elements, start + len(data) - 4))()
    return out


def _size(kind: int) -> int:
    """Bytes of an element."""
    return 4 if kind == 0 else 2


@cache
def _load(kind: int) -> Any:
    """Load the first lanes of a payload's group."""
    if kind == 1:
        return jit(_load_half)
    if kind == 2:
        return jit(_load_bfloat)
    return jit(_load_float)


def _load_half(address, lanes):  # type: ignore[no-untyped-def]
    return vector.load_half(address, lanes)


def _load_bfloat(address, lanes):  # type: ignore[no-untyped-def]
    return vector.load_bfloat(address, lanes)


def _load_float(address, lanes):  # type: ignore[no-untyped-def]
    return vector.load_lanes(address, lanes)


@cache
def _store(kind: int) -> Any:
    """Store the first lanes of a payload's group."""
    if kind == 1:
        return jit(_store_half)
    if kind == 2:
        return jit(_store_bfloat)
    return jit(_store_float)


def _store_half(address, value, lanes):  # type: ignore[no-untyped-def]
    vector.store_half(address, value, lanes)


def _store_bfloat(address, value, lanes):  # type: ignore[no-untyped-def]
    vector.store_bfloat(address, value, lanes)


def _store_float(address, value, lanes):  # type: ignore[no-untyped-def]
    vector.store_lanes(address, value, lanes)


@cache
def _extract(kind: int, unaligned: bool) -> Any:
    store, size = _store(kind), _size(kind)

    @jit
    def extract(a):  # type: ignore[no-untyped-def]
        source, s_image, s_block, s_row, out = a[0], a[1], a[2], a[3], a[4]
        batch, channels, rows, columns, shift, first, last = a[5], a[6], a[7], a[8], a[9], a[10], a[11]
        for n in range(batch):
            for group in range((channels + 15) >> 4):
                lanes = min(16, channels - group * 16)
                lower, upper = first + group, min(first + group + 1, last)
                for row in range(rows):
                    base = source + n * s_image + row * s_row
                    one, two = base + lower * s_block, base + upper * s_block
                    if lanes == 16:
                        for p in range(0, columns * 64, 64):
                            value = vector.load(one + p)
                            if unaligned:
                                value = vector.align(value, vector.load(two + p), shift)
                            store(out, value, 16)
                            out += 16 * size
                    else:
                        for p in range(0, columns * 64, 64):
                            value = vector.load(one + p)
                            if unaligned:
                                value = vector.align(value, vector.load(two + p), shift)
                            store(out, value, lanes)
                            out += lanes * size

    return extract


@cache
def _insert(kind: int, unaligned: bool, accumulate: bool) -> Any:
    load, size = _load(kind), _size(kind)

    @jit
    def insert(a):  # type: ignore[no-untyped-def]
        target, t_image, t_block, t_row, payload = a[0], a[1], a[2], a[3], a[4]
        batch, channels, rows, columns, start = a[5], a[6], a[7], a[8], a[9]
        groups = (channels + 15) >> 4
        group_bytes = rows * columns * 16 * size
        for n in range(batch):
            image = payload + n * channels * rows * columns * size
            for block in range((start + channels + 15) >> 4):
                low = max(0, start - block * 16)
                high = min(16, start + channels - block * 16)
                # The block's lanes are the end of one group (at `start`, none for block 0) and the beginning of the next.
                previous, following = max(block - 1, 0), min(block, groups - 1)
                one_lanes = min(16, channels - previous * 16)
                two_lanes = min(16, channels - following * 16)
                for row in range(rows):
                    one = image + previous * group_bytes + row * columns * one_lanes * size
                    two = image + following * group_bytes + row * columns * two_lanes * size
                    out = target + n * t_image + block * t_block + row * t_row
                    if not unaligned and two_lanes == 16:
                        for p in range(0, columns * 64, 64):
                            value = load(two, 16)
                            if accumulate:
                                value = vector.add(vector.load(out + p), value)
                            vector.store(out + p, value)
                            two += 16 * size
                    else:
                        for p in range(0, columns * 64, 64):
                            value = load(two, two_lanes)
                            if unaligned:
                                value = vector.align(load(one, one_lanes), value, 16 - start)
                            if accumulate:
                                value = vector.add(vector.load(out + p), value)
                            vector.store_between(out + p, value, low, high)
                            one += one_lanes * size
                            two += two_lanes * size

    return insert


@cache
def _converter(kind: int, narrow: bool) -> Any:
    load, store = _load(kind), _store(kind)

    @jit
    def convert(a):  # type: ignore[no-untyped-def]
        source, out, elements = a[0], a[1], a[2]
        for k in range(0, elements & -16, 16):
            if narrow:
                store(out + k * 2, vector.load(source + k * 4), 16)
            else:
                vector.store(out + k * 4, load(source + k * 2, 16))
        k = elements & -16
        if k < elements:
            if narrow:
                store(out + k * 2, vector.load_lanes(source + k * 4, elements - k), elements - k)
            else:
                vector.store_lanes(out + k * 4, load(source + k * 2, elements - k), elements - k)

    return convert


@jit
def _squeeze(a):  # type: ignore[no-untyped-def]
    """Branch-free: every word is stored at the next place, which advances only after a value."""
    source, elements, bitmap, values = a[0], a[1], a[2], a[3]
    first = values
    for k in range(0, elements, 32):
        bits = np.uint32(0)
        for bit in range(min(32, elements - k)):
            word = vector.load_word(source + (k + bit) * 4)
            some = np.int64(word != 0)
            vector.store_word(values, word)
            values += some * 4
            bits |= np.uint32(some) << np.uint32(bit)
        vector.store_word(bitmap + (k >> 3), np.int32(bits))
    vector.store_long(a[4], (values - first) >> 2)


@jit
def _spread(a):  # type: ignore[no-untyped-def]
    """Branch-free: a value is loaded for every element (the last one again at the end) and masked out for zeros."""
    bitmap, values, out, elements, last = a[0], a[1], a[2], a[3], a[4]
    for k in range(0, elements, 32):
        bits = np.int64(vector.load_word(bitmap + (k >> 3)))
        for bit in range(min(32, elements - k)):
            some = (bits >> bit) & 1
            word = vector.load_word(min(values, last))
            vector.store_word(out + (k + bit) * 4, np.int32(word & np.int32(-some)))
            values += some * 4
