"""Array file: an array from a file in numpy's format (``.npy``). Nothing in it is run."""

from __future__ import annotations

import math
import warnings
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from fogconv.errors import InputError

MAGIC = b"\x93NUMPY"
MOST_BYTES = 4_000_000_000
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def read_array(file: BinaryIO, name: str) -> NDArray[Any]:
    """Numbers of any shape, in the file's type. No more memory is taken than the file has values.

    Raises InputError, whose message begins with the file's ``name``.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about headers that Python 2 wrote
            version = np.lib.format.read_magic(file)
            if version not in _HEADERS:
                raise InputError(f"{name} has version {version[0]}.{version[1]} of numpy's format, which is not known")
            shape, by_columns, kind = _HEADERS[version](file)
    except InputError:
        raise
    except Exception as error:  # the header is a Python literal, and its parser raises errors of several types
        raise InputError(f"{name} can't be read as an array: {error or type(error).__name__}") from error
    if kind.kind not in "fiu" or kind.itemsize > 8 or min(shape, default=1) < 0:
        raise InputError(f"{name} has the shape {shape} of {kind}, which are no numbers")
    size = math.prod(shape) * kind.itemsize
    if size > MOST_BYTES:
        raise InputError(f"{name} has the shape {shape} of {kind}: over {MOST_BYTES / 1e9:.0f} GB, which is the limit")
    try:
        content = _content(file, size + 1)
    except OSError as error:
        raise InputError(f"{name} can't be read as an array: {error.strerror or error}") from error
    if len(content) != size:
        raise InputError(f"{name} is damaged: an array of the shape {shape} of {kind} has {size} bytes")
    return np.frombuffer(content, kind).reshape(shape, order="F" if by_columns else "C")


def _content(file: BinaryIO, most: int) -> bytes:
    """Read in pieces: a read of a size that the header invents would take that much memory first."""
    pieces, left = [], most
    while left and (piece := file.read(min(left, 1 << 24))):
        pieces.append(piece)
        left -= len(piece)
    return b"".join(pieces)
