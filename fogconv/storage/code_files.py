"""Code files: compiled functions on disk, one file each, sealed by a hash of its content.

A file is named by all that its code depends on, and never changes once it has its name: processes that write the same one
at once do no harm, and no lock is needed. What is loaded is executed, so a file is used only if no user except this one
and root could have written it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Callable
from contextvars import ContextVar
from functools import cache
from pathlib import Path

from fogconv.storage.trusted import read_own, warn_once, write_own

UNUSED_S = 60 * 24 * 3600.0
"""A file that was not loaded for so long is removed when another one is written."""

SEAL_BYTES = 32

CHOICE: ContextVar[Callable[[Path], bool] | None] = ContextVar("choice", default=None)
"""Where set, it is asked for each function, by its file, whether this process shall compile or load it: several can share
the work out."""


def chosen(path: Path | None) -> bool:
    choice = CHOICE.get()
    return choice is None or path is None or choice(path)


def opened(path: Path) -> bytes | None:
    """A file's content; None, with a warning if it can't be used, where the function has to be compiled."""
    try:
        content = read_own(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        warn_once(f"{path} is not used; its function is compiled again ({error.strerror})")
        return None
    digest, payload = content[:SEAL_BYTES], content[SEAL_BYTES:]
    if hashlib.sha256(payload).digest() != digest:
        return None  # cut short by a full disk; the new file will replace it
    with contextlib.suppress(OSError):  # a read-only shared cache works as well
        os.utime(path)
    return payload


def kept(path: Path, payload: bytes) -> None:
    """Write a file. A full disk is a warning."""
    try:
        write_own(path, hashlib.sha256(payload).digest() + payload)
        _prune(path.parent)
    except OSError as error:
        why = error.strerror or error  # without the file's name, which is another each time
        warn_once(f"compiled kernels can't be stored in {path.parent} ({why}); they will be compiled again next time")


@cache
def _prune(folder: Path) -> None:
    """Once per process: an old cache has thousands of files."""
    stale = time.time() - UNUSED_S
    for path in (*folder.glob("*.nbc"), *folder.glob("*.obj"), *folder.glob("known-*"), *folder.glob("writing-*")):
        with contextlib.suppress(FileNotFoundError):  # another process was faster
            if path.stat().st_mtime < stale:
                path.unlink()
