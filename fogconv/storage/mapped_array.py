"""Mapped arrays: those whose memory is a file's, such as the weights of a kept graph."""

from __future__ import annotations

import mmap
from typing import Any

import numpy as np
from numpy.typing import NDArray


def give_back(array: NDArray[Any]) -> None:
    """Take the pages of a mapped array, or of a view of one, out of this process's memory; where it is read again, they come
    from the file, as they are there. Nothing for any other array."""
    base: Any = array
    # A worker in the master's process gets its weights as memoryviews.
    while isinstance(base, np.ndarray | memoryview):
        base = base.obj if isinstance(base, memoryview) else base.base
    if not isinstance(base, mmap.mmap) or not array.size or not hasattr(base, "madvise"):
        return
    whole = np.frombuffer(base, np.uint8)
    first = array.__array_interface__["data"][0] - whole.__array_interface__["data"][0]
    # Whole pages only: the others hold parts of its neighbours, too.
    start, stop = -(-first // mmap.PAGESIZE) * mmap.PAGESIZE, (first + array.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
    if array.flags.c_contiguous and start < stop:
        base.madvise(mmap.MADV_DONTNEED, start, stop - start)
