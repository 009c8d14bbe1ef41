"""Memory for weights and maps in pages of 2 MB, where the system has them.

A CPU finds a page of 4 KB in its own tables only if it used the page a short time ago; one of 2 MB counts as a single page.
In a network each conv reads weights that were last read an inference ago, all in pages that are no longer known: with large
pages 1280×8×8→448 1×1 takes 0.93 of the time and 512×14×14→512 3×3 of stride 2 0.89 (Zen 4, whole inferences).

malloc can't do this. It places arrays anywhere in pages of 4 KB; what numpy asks for in large pages are arrays of 4 MB and
more, of which most weights are none. So arrays lie here side by side in regions that are reserved as a whole. What an array
leaves is found again by the next ones. Pages in which no array lies go back to the system.
"""

from __future__ import annotations

import ctypes
import mmap
import weakref
from bisect import bisect
from collections import deque
from pathlib import Path
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from fogconv.kernels.codegen.tile.fields import LINE

PAGE = 2 << 20
"""Bytes of a large page, and what one starts at a multiple of: on x86-64, and on aarch64 with small pages of 4 KB. Where
small ones have 16 KB, as in a Raspberry Pi 5's own system, large ones have 32 MB: too much for a worker that counts its
memory, and its small pages are less of a burden."""

PAGE_SIZE_FILE = Path("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size")

REGION = 64 << 20
"""Bytes of addresses that are reserved at once, or those of an array that is larger. Pages are taken as they are used."""

LEAST = 128 << 10
"""Bytes of the smallest array that pays. malloc would map one by one as well."""


def supported() -> bool:
    """Whether the system gives large pages of this size to who asks for them."""
    try:
        size = int(PAGE_SIZE_FILE.read_text())
    except (OSError, ValueError):
        return False
    return size == PAGE and hasattr(mmap, "MADV_HUGEPAGE") and hasattr(mmap, "MADV_DONTNEED")


SUPPORTED = supported()


class Region:
    """Reserved addresses, and which of them are free: spans (from, to), in order, whose bytes are all 0."""

    def __init__(self, size: int) -> None:
        self._memory = mmap.mmap(-1, size + PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._memory.madvise(mmap.MADV_HUGEPAGE)
        address = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        self._before = -address % PAGE
        self._address = address + self._before
        self._free = [(0, size)]

    def take(self, size: int) -> int | None:
        """The offset of so many bytes, a multiple of `LINE`, that are free no longer; None where there is no such span."""
        for number, (start, stop) in enumerate(self._free):
            if stop - start >= size:
                self._free[number : number + 1] = [(start + size, stop)] if stop - start > size else []
                return start
        return None

    def give_back(self, start: int, size: int) -> None:
        """So many bytes are free again: pages that are free as a whole go to the system, which gives zeros for them, and the
        rest is set to zero."""
        low, high = self._join(start, start + size)
        first = max(start // PAGE * PAGE, -(-low // PAGE) * PAGE)
        last = min(-(-(start + size) // PAGE) * PAGE, high // PAGE * PAGE)
        if first < last:
            self._memory.madvise(mmap.MADV_DONTNEED, self._before + first, last - first)
        else:
            first = last = start + size
        self._clear(start, first)
        self._clear(last, start + size)

    def _join(self, start: int, stop: int) -> tuple[int, int]:
        """Add a free span, and make one of it and those that it touches: that one."""
        number = bisect(self._free, (start, stop))
        if number < len(self._free) and self._free[number][0] == stop:
            stop = self._free.pop(number)[1]
        if number and self._free[number - 1][1] == start:
            number -= 1
            start = self._free.pop(number)[0]
        self._free.insert(number, (start, stop))
        return start, stop

    def _clear(self, start: int, stop: int) -> None:
        if start < stop:
            ctypes.memset(self._address + start, 0, stop - start)

    def array(self, start: int, size: int) -> tuple[object, NDArray[np.uint8]]:
        """The bytes from an offset on, and what lives as long as any view of them."""
        owner = (ctypes.c_uint8 * size).from_address(self._address + start)
        return owner, np.frombuffer(memoryview(owner), np.uint8)


class LargePages:
    """All regions of a process. Any thread may ask for arrays, and let go of them."""

    def __init__(self) -> None:
        self._regions: list[Region] = []
        self._lock = Lock()
        self._left: deque[tuple[Region, int, int]] = deque()

    def zeros(self, size: int) -> NDArray[np.uint8] | None:
        """So many bytes of zeros, aligned to a line of the caches; None for a small array, or where the system has no large
        pages."""
        if size < LEAST or not SUPPORTED:
            return None
        room = -(-size // LINE) * LINE
        with self._lock:
            self._collect()
            found = self._place(room)
        if found is None:
            return None
        region, start = found
        owner, array = region.array(start, size)
        weakref.finalize(owner, self._leave, region, start, room).atexit = False
        return array

    def _place(self, room: int) -> tuple[Region, int] | None:
        for region in self._regions:
            start = region.take(room)
            if start is not None:
                return region, start
        try:
            region = Region(max(REGION, -(-room // PAGE) * PAGE))
        except OSError:  # a limit on addresses, or a kernel without large pages
            return None
        self._regions.append(region)
        start = region.take(room)
        assert start is not None
        return region, start

    def _leave(self, region: Region, start: int, room: int) -> None:
        """An array is gone. This may run in the midst of anything, also of `zeros`: then that, or the next one, collects."""
        self._left.append((region, start, room))
        if self._lock.acquire(blocking=False):
            try:
                self._collect()
            finally:
                self._lock.release()

    def _collect(self) -> None:
        while self._left:
            region, start, room = self._left.popleft()
            region.give_back(start, room)


large_pages = LargePages()
"""Of which there is one in a process, as there is one malloc."""
