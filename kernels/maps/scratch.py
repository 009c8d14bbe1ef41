"""Scratch memory that kernels which never run at the same time can share."""

from __future__ import annotations

import numpy as np

from fogconv.ir.arrays import Array
from fogconv.kernels.maps.blocked import aligned_zeros


class Scratch:
    """A pool: all kernels of one network that borrow from it share the same memory, as large as the largest request.

    A kernel keeps the memory that it borrowed when it was bound; a later, larger request does not move it.
    """

    def __init__(self) -> None:
        self._memory: dict[int, Array] = {}

    def reserve(self, elements: int, threads: int) -> None:
        """Take for each thread what its largest request will be, once and no more than that."""
        for thread in range(threads):
            if elements and thread not in self._memory:
                self._memory[thread] = aligned_zeros((elements,))

    def borrow(self, elements: int, thread: int = 0) -> Array:
        """At least ``elements`` float32, 64-byte aligned and uninitialised; each thread has its own."""
        memory = self._memory.get(thread)
        if memory is None or memory.size < elements:
            # Powers of two, so that the memory kept by earlier kernels adds up to no more than the largest request.
            memory = self._memory[thread] = aligned_zeros((1 << max(0, elements - 1).bit_length(),))
        return memory[:elements]

    @property
    def nbytes(self) -> int:
        """Bytes held by the largest requests so far."""
        return int(np.sum([memory.nbytes for memory in self._memory.values()]))
