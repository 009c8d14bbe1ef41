"""Paths: files and folders from the user, checked before any slow work starts."""

from __future__ import annotations

import os
import stat
from collections.abc import Collection
from pathlib import Path

from fogconv.errors import InputError, shown
from fogconv.storage.trusted import open_plain

LONGEST_NAME = 255
"""The most bytes of one name in a path, on the usual file systems."""


def readable(text: str) -> Path:
    """An existing plain file; "~" is the user's home. Raises InputError, also for a pipe, a device or a folder."""
    path = named(text)
    try:
        open_plain(path).close()
    except OSError as error:
        raise InputError(f"{shown(text)}: can't be read: {error.strerror or error}") from None
    return path


def writable(text: str, suffixes: Collection[str] = ()) -> Path:
    """A path where a file can be written, with one of the suffixes if there are any. Raises InputError.

    A device such as /dev/null is allowed; a pipe is not, because it would wait for its reader.
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
    """A folder, or a path where one can be made. Raises InputError."""
    path = named(text)
    try:
        if not stat.S_ISDIR(path.stat().st_mode):
            raise InputError(f"{shown(text)}: it is not a folder")
    except FileNotFoundError:
        pass
    except OSError as error:
        raise InputError(f"{shown(text)}: it is not a usable folder: {error.strerror or error}") from None
    return path


def named(text: str) -> Path:
    """The path that a text names. Raises InputError for an impossible name."""
    if not text:
        raise InputError("'': it names no file")
    if "\0" in text:
        raise InputError(f"{shown(text)}: it is no file name")
    # Not Path.expanduser, which raises RuntimeError for an unknown user.
    path = Path(os.path.expanduser(text))  # noqa: PTH111
    if any(len(os.fsencode(part)) > LONGEST_NAME for part in path.parts):
        raise InputError(f"{shown(text)}: a file name has at most {LONGEST_NAME} bytes")
    if text.startswith("~") and str(path).startswith("~") and not path.exists():
        raise InputError(
            f"{shown(text)}: there is no user {shown(path.parts[0][1:])}; a file of that name is ./{shown(text)}"
        )
    return path
