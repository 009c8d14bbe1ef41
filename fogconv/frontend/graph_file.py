"""A LayerGraph as bytes, so that a model is exported once.

    header's length (8 bytes, little-endian) │ SHA-256 of the header │ header (MessagePack) │ weights

Every array of the weights starts at a multiple of 64 bytes, so that it can be used in the mapped file. A graph with Host
layers can't be stored, because these run in torch.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from fogconv.errors import ModelError
from fogconv.ir import layers
from fogconv.ir.graph import LayerGraph, Port, Structure
from fogconv.ir.layers import Host, Layer, Operator, Tensor

T = TypeVar("T")

ALIGNMENT = 64
_PREFIX_BYTES = 8 + hashlib.sha256().digest_size
_LONGEST_HEADER = 64 << 20


class _Weight(msgspec.Struct, frozen=True):
    """The place of an array: ``offset`` in bytes from the end of the header, itself at a multiple of ALIGNMENT."""

    key: str
    dtype: str
    shape: tuple[int, ...]
    offset: int


class _Header(msgspec.Struct, frozen=True):
    """``about`` is the caller's. ``checksum`` is the CRC-32 of all weights, in their order, without the gaps."""

    about: msgspec.Raw
    name: str
    tensors: tuple[Tensor, ...]
    layers: tuple[tuple[str, dict[str, Any]], ...]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    structure: Structure
    info: dict[str, Any]
    weights: tuple[_Weight, ...]
    checksum: int


def packed(graph: LayerGraph, about: Any) -> Iterator[bytes | memoryview]:
    """The pieces of the file, to be written one after the other. ``about`` is anything that msgspec can encode.

    Raises ModelError for a graph with Host layers.
    """
    hosted = next((layer for layer in graph.layers if isinstance(layer, Host)), None)
    if hosted is not None:
        raise ModelError(f"{graph.name}: {hosted.name} runs in torch, which can't be kept in a file")
    found, checksum, offset = [], 0, 0
    for key, array in graph.weights.items():
        found.append(_Weight(key, array.dtype.str, array.shape, offset))
        checksum = zlib.crc32(_bytes(array), checksum)
        offset = _aligned(offset + array.nbytes)
    header = msgspec.msgpack.encode(
        _Header(
            msgspec.Raw(msgspec.msgpack.encode(about)),
            graph.name,
            graph.tensors,
            tuple((type(layer).__name__, msgspec.to_builtins(layer)) for layer in graph.layers),
            graph.inputs,
            graph.outputs,
            graph.structure,
            dict(graph.info),
            tuple(found),
            checksum,
        )
    )
    yield len(header).to_bytes(8, "little") + hashlib.sha256(header).digest() + header
    end = _PREFIX_BYTES + len(header)
    yield bytes(_aligned(end) - end)
    for array in graph.weights.values():
        yield _bytes(array)
        yield bytes(_aligned(array.nbytes) - array.nbytes)


def unpacked(file: BinaryIO, about: type[T]) -> tuple[LayerGraph, T]:
    """The graph, its weights mapped from the file (changes of theirs stay in memory), and the caller's ``about``.

    Raises ModelError for a file that is damaged or was written by another version.
    """
    try:
        return _unpacked(file, about)
    except (ValueError, TypeError, KeyError, OverflowError, msgspec.DecodeError) as error:
        raise ModelError(f"this is not a file of a graph, or it is damaged ({error})") from error


def _unpacked(file: BinaryIO, about: type[T]) -> tuple[LayerGraph, T]:
    prefix = file.read(_PREFIX_BYTES)
    length = int.from_bytes(prefix[:8], "little")
    if len(prefix) < _PREFIX_BYTES or length > _LONGEST_HEADER:
        raise ValueError("its first bytes are not a header")
    content = file.read(length)
    if hashlib.sha256(content).digest() != prefix[8:]:
        raise ValueError("its header does not have the checksum that it states")
    header = msgspec.msgpack.decode(content, type=_Header)
    whole: NDArray[np.uint8] = np.memmap(file, np.uint8, "c").view(np.ndarray)
    start, checksum = _aligned(_PREFIX_BYTES + length), 0
    weights = {}
    for weight in header.weights:
        size = int(np.prod(weight.shape, dtype=np.int64)) * np.dtype(weight.dtype).itemsize
        piece = whole[start + weight.offset : start + weight.offset + size]
        checksum = zlib.crc32(piece.data, checksum)
        weights[weight.key] = piece.view(weight.dtype).reshape(weight.shape)
    if checksum != header.checksum:
        raise ValueError("its weights do not have the checksum that it states")
    graph = LayerGraph(
        header.name,
        header.tensors,
        tuple(layer_of(kind, fields) for kind, fields in header.layers),
        header.inputs,
        header.outputs,
        weights,
        without_lists(header.structure),
        header.info,
    )
    return graph, msgspec.msgpack.decode(header.about, type=about)


def layer_of(kind: str, fields: dict[str, Any]) -> Layer:
    found = getattr(layers, kind)
    if not issubclass(found, Operator):
        raise ValueError(f"{kind} is no layer")
    layer: Layer = msgspec.convert(fields, found)
    return layer


def without_lists(structure: Structure) -> Structure:
    """A structure as it was before it was MessagePack, which has no tuples."""
    if isinstance(structure, dict):
        return {key: without_lists(inner) for key, inner in structure.items()}
    return tuple(without_lists(inner) for inner in structure) if isinstance(structure, list) else structure


def _bytes(array: NDArray[Any]) -> memoryview:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
