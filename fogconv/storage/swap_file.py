"""SwapFile: an array that lies on this device's disk, and is in memory only between ``fetch`` and ``drop``.

The file has no name from the start, so that nothing stays on the disk when the process ends, however it ends. Only this
user can read it (mode 0600). It is read by ``read`` calls, which let other threads work, and then used through its mapping;
``drop`` gives back the mapped pages and the system's copies of them, so that the next ``fetch`` reads the disk again: what a
device that has no memory left does anyway.
"""

from __future__ import annotations

import mmap
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from weakref import finalize

import numpy as np
from numpy.typing import NDArray

from fogconv.errors import SwapError
from fogconv.storage.cache_folder import cache_folder
from fogconv.storage.trusted import own_folder

CHUNK_BYTES = 1 << 20
"""Bytes of one call that reads or writes: the pace is held, and others look in, between two of them."""

KEPT_FREE = 0.05
"""Of a disk, the share that is not filled."""

NO_FOLDER = "there is no folder for weights that are swapped to disk; name one with fogconv-worker --swap-folder"


class SwapFile:
    """``array`` has the given content, and is read-only. Raises OSError."""

    def __init__(self, folder: Path, content: NDArray[np.float32], bytes_per_s: float = 0.0) -> None:
        data = np.ascontiguousarray(content, np.float32)
        self.nbytes = data.nbytes
        self._bytes_per_s = bytes_per_s
        handle, name = tempfile.mkstemp(dir=folder, prefix="swap-")
        finalize(self, os.close, handle)
        Path(name).unlink()
        self._handle = handle
        _allocate(handle, max(1, self.nbytes))
        raw = data.reshape(-1).view(np.uint8).data
        for start in range(0, self.nbytes, CHUNK_BYTES):
            _write(handle, raw[start : start + CHUNK_BYTES], start)
        _sync(handle)
        self._map = mmap.mmap(handle, max(1, self.nbytes), prot=mmap.PROT_READ)
        self.array = np.frombuffer(self._map, np.float32, data.size).reshape(data.shape)
        self.drop()

    def fetch(self) -> None:
        """Read the whole file, at most as fast as its pace. Raises OSError where the disk fails."""
        begin, chunk = time.perf_counter(), _chunk()
        for start in range(0, self.nbytes, CHUNK_BYTES):
            got = os.preadv(self._handle, [chunk], start)
            if got < min(CHUNK_BYTES, self.nbytes - start):
                raise OSError("the file of swapped weights ends too early")
            if self._bytes_per_s:
                due = begin + (start + got) / self._bytes_per_s
                time.sleep(max(0.0, due - time.perf_counter()))

    def drop(self) -> None:
        """Give the memory back."""
        if hasattr(self._map, "madvise"):
            self._map.madvise(mmap.MADV_DONTNEED)
        _forget(self._handle)


class SwapFolder:
    """Where a process swaps to: ``path``, or ``swap`` in this user's cache folder. ``bytes_per_s`` is a pace for reading;
    0: as fast as the disk is."""

    def __init__(self, path: Path | None = None, bytes_per_s: float = 0.0) -> None:
        self._path, self._bytes_per_s = path, bytes_per_s

    def store(self, content: NDArray[np.float32]) -> SwapFile:
        """Put an array on the disk. Raises SwapError where it has no place there."""
        self.require(content.nbytes)
        try:
            return SwapFile(self._folder(), content, self._bytes_per_s)
        except OSError as error:
            raise self._failed(error) from error

    def require(self, nbytes: int) -> None:
        """Raises SwapError where the disk has not so much room; a part of it always stays free, for others."""
        try:
            folder = self._folder()
            disk = shutil.disk_usage(folder)
        except OSError as error:
            raise self._failed(error) from error
        free = max(0, disk.free - int(KEPT_FREE * disk.total))
        if free < nbytes:
            raise SwapError(
                f"swapping weights needs {nbytes / 1e6:.0f} MB on the disk of {folder}, where {free / 1e6:.0f} MB can be "
                "taken: make room, name another folder with fogconv-worker --swap-folder, or raise --memory"
            )

    def bytes_per_s(self, nbytes: int, proceed: Callable[[], None]) -> float:
        """The rate at which ``nbytes`` come from the disk, are mapped, and given back. Raises SwapError.

        The faster of two times counts, as other work may hold one up. ``proceed`` is called before each, and may raise."""
        file = self.store(np.zeros(nbytes // 4, np.float32))
        seconds = []
        for _ in range(2):
            proceed()
            begin = time.perf_counter()
            file.fetch()
            file.array[:: mmap.PAGESIZE // 4].max()
            file.drop()
            seconds.append(time.perf_counter() - begin)
        return nbytes / max(min(seconds), 1e-9)

    def _folder(self) -> Path:
        if self._path is not None:
            self._path.mkdir(parents=True, exist_ok=True, mode=0o700)
            return self._path
        caches = cache_folder()
        if caches is None or not own_folder(caches / "swap", "swapped weights"):
            raise SwapError(NO_FOLDER)
        return caches / "swap"

    def _failed(self, error: OSError) -> SwapError:
        where = self._path or "the cache folder"
        return SwapError(
            f"weights can't be swapped to {where}: {error.strerror or error}; make room there, name another folder with "
            "fogconv-worker --swap-folder, or raise --memory"
        )


def _chunk() -> memoryview:
    return memoryview(bytearray(CHUNK_BYTES))


def _allocate(handle: int, nbytes: int) -> None:
    """Reserve the room now: a full disk would else end the process when the mapping is read."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(handle, 0, nbytes)
    else:
        os.ftruncate(handle, nbytes)


def _write(handle: int, piece: memoryview, start: int) -> None:
    while piece:
        written = os.pwrite(handle, piece, start)
        piece, start = piece[written:], start + written


def _sync(handle: int) -> None:
    """Only what is on the disk can be forgotten by the system."""
    getattr(os, "fdatasync", os.fsync)(handle)


def _forget(handle: int) -> None:
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
