"""Paths: files and folders that people name, checked before anything that takes time begins."""

from __future__ import annotations

import os
import stat
from collections.abc import Collection
from pathlib import Path

from fogconv.errors import InputError, shown
from fogconv.storage.trusted import open_plain

LONGEST_NAME = 255
"""Bytes of one name in a path, on the usual file systems."""


def readable(text: str) -> Path:
    """A plain file that is there; "~" is the user's home. Raises InputError, for a pipe, a device or a folder too."""
    path = named(text)
    try:
        open_plain(path).close()
    except OSError as error:
        raise InputError(f"{shown(text)}: can't be read: {error.strerror or error}") from None
    return path


def writable(text: str, suffixes: Collection[str] = ()) -> Path:
    """Where a file may be written, with one of the suffixes if there are any. Raises InputError.

    A device may be written, such as /dev/null; a pipe would wait for its reader.
    """
    path = named(text)
    if suffixes and path.suffix.lower() not in suffixes:
        raise InputError(f"{shown(text)}: write a name that ends in {' or '.join(suffixes)}")
    if not path.parent.is_dir():
        raise InputError(f"{shown(text)}: there is no folder {shown(str(path.parent))}")
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return path
    except OSError as error:
        raise InputError(f"{shown(text)}: it can't be written: {error.strerror or error}") from None
    for is_kind, words in ((stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a pipe"), (stat.S_ISSOCK, "a socket")):
        if is_kind(mode):
            raise InputError(f"{shown(text)}: it is {words}, not a file")
    return path


def folder(text: str) -> Path:
    """A folder, or where one may be made. Raises InputError."""
    path = named(text)
    try:
        if not stat.S_ISDIR(path.stat().st_mode):
            raise InputError(f"{shown(text)}: it is not a folder")
    except FileNotFoundError:
        pass
    except OSError as error:
        raise InputError(f"{shown(text)}: it is no folder that can be used: {error.strerror or error}") from None
    return path


def named(text: str) -> Path:
    """The path that a text names. Raises InputError for what no file can be called."""
    if not text:
        raise InputError("'': it names no file")
    if "\0" in text:
        raise InputError(f"{shown(text)}: it is no file name")
    # Not Path.expanduser, which raises RuntimeError for a user that is not known.
    path = Path(os.path.expanduser(text))  # noqa: PTH111
    if any(len(os.fsencode(part)) > LONGEST_NAME for part in path.parts):
        raise InputError(f"{shown(text)}: a file name has at most {LONGEST_NAME} bytes")
    if text.startswith("~") and str(path).startswith("~") and not path.exists():
        raise InputError(
            f"{shown(text)}: there is no user {shown(path.parts[0][1:])}; a file of that name is ./{shown(text)}"
        )
    return path
