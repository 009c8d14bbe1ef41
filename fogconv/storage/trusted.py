"""Files: opened so that nothing hangs, and checked before their content is used.

`open_plain` and `read_plain` are for files that the user names: plain files, no pipe, device or folder. `distrust` and
`read_own` are for caches and keys, which decide what code runs and who may connect: only this user or root may have
written them. Links and folders on the path are checked as well, since the owner of a folder can replace its content.
"""

from __future__ import annotations

import errno
import grp
import os
import pwd
import stat
import tempfile
import warnings
from functools import cache
from pathlib import Path
from typing import BinaryIO

MOST_BYTES = 256 * 1024 * 1024
"""The largest text file that is read: a plan of a thousand layers takes a few megabytes."""

_MOST_LINKS = 40
_KINDS = (
    (stat.S_ISDIR, errno.EISDIR, "it is a folder, not a file"),
    (stat.S_ISFIFO, errno.EINVAL, "it is a pipe, not a file"),
    (stat.S_ISSOCK, errno.EINVAL, "it is a socket, not a file"),
    (stat.S_ISCHR, errno.EINVAL, "it is a device, not a file"),
    (stat.S_ISBLK, errno.EINVAL, "it is a device, not a file"),
)


def open_plain(path: str | Path) -> BinaryIO:
    """Open a file that a user named, for reading; "~" is their home.

    Raises OSError, with a readable strerror, for a file that can't be read or is not a plain file: reading a pipe would
    wait, and a device might never end.
    """
    try:
        # Not Path.expanduser, which raises RuntimeError for an unknown user.
        name = Path(os.path.expanduser(path))  # noqa: PTH111
        # Opening a device can have effects, so the path is checked first; the opened file is checked again.
        _require_plain(name.stat())
        descriptor = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except ValueError as error:
        raise OSError(errno.EINVAL, f"it is not a file name ({error})") from error
    try:
        _require_plain(os.fstat(descriptor))
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_plain(path: str | Path, most: int = MOST_BYTES) -> bytes:
    """A file's content. Raises OSError as `open_plain` does, and for more than ``most`` bytes."""
    with open_plain(path) as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise OSError(errno.EFBIG, f"it has more than {most / 1e6:.0f} MB")
    return content


def distrust(path: Path) -> str | None:
    """The reason why another user could have written the file at a path; None if only this user and root could.

    Where the path does not exist, its existing part is checked. Raises OSError for one that can't be followed.
    """
    at, links = Path("/"), 0
    waiting = [*reversed((Path.cwd() / path).parts[1:])]
    while waiting:
        part = waiting.pop()
        if part == "..":
            at = at.parent
            continue
        here = at / part
        try:
            status = here.lstat()
        except FileNotFoundError:
            return None
        if stat.S_ISLNK(status.st_mode):
            if not _ours(status):
                return f"{here} is a link that belongs to {_name(status.st_uid)}"
            links += 1
            if links > _MOST_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
            target = here.readlink()
            at = Path("/") if target.is_absolute() else at
            waiting += reversed(target.parts[1:] if target.is_absolute() else target.parts)
            continue
        at = here
        complaint = _complaint(status, here) if not waiting else _complaint_on_the_way(status, here)
        if complaint:
            return f"{here} {complaint}"
    return None


def own_folder(folder: Path, kept: str) -> bool:
    """Make a folder for this user's files (``kept``, in words). Returns whether to use it; warns once where not."""
    try:
        complaint = distrust(folder)
        if complaint is None:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            complaint = distrust(folder)
    except OSError as error:
        complaint = f"{folder} can't be used ({error.strerror or error})"
    if complaint is not None:
        warn_once(f"{complaint}: no {kept} are read from or stored in it")
    return complaint is None


def open_own(path: Path, *, secret: bool = False) -> BinaryIO:
    """A file in a folder that is trusted, open for reading. Raises OSError, also for a link, for a file that others could
    have written, and for a ``secret`` that they can read."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY | os.O_NOFOLLOW)
    try:
        status = os.fstat(descriptor)
        _require_plain(status)
        complaint = _complaint(status, path)
        if complaint is None and secret and status.st_mode & 0o077:
            complaint = f"can be read by others (mode {stat.S_IMODE(status.st_mode):04o}): chmod 600 {path}"
        if complaint:
            raise PermissionError(errno.EPERM, complaint, str(path))
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_own(path: Path, *, secret: bool = False) -> bytes:
    """The content of a file as `open_own` opens it. Raises OSError."""
    with open_own(path, secret=secret) as file:
        return file.read()


def write_own(path: Path, *content: bytes | memoryview) -> None:
    """Write a file atomically, for its owner only (mode 0600); a link of that name is replaced, not followed."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix="writing-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.writelines(content)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


@cache
def warn_once(message: str) -> None:
    """Issue a warning once per process."""
    warnings.warn(message, RuntimeWarning, stacklevel=3)


def _require_plain(status: os.stat_result) -> None:
    for is_kind, code, words in _KINDS:
        if is_kind(status.st_mode):
            raise OSError(code, words)


def _complaint(status: os.stat_result, path: Path) -> str | None:
    if not _ours(status):
        return f"belongs to {_name(status.st_uid)}"
    if status.st_mode & 0o022:
        return _open_to_others(status, path)
    return None


def _open_to_others(status: os.stat_result, path: Path) -> str:
    group, everybody = status.st_mode & stat.S_IWGRP, status.st_mode & stat.S_IWOTH
    whose = ("g" if group else "") + ("o" if everybody else "")
    return f"can be written by others (mode {stat.S_IMODE(status.st_mode):04o}; chmod {whose}-w {path} ends that)"


def _complaint_on_the_way(status: os.stat_result, path: Path) -> str | None:
    """The complaint about a folder on the path. In one with the sticky bit, such as /tmp, no user can move another user's
    files."""
    if not _ours(status):
        return f"belongs to {_name(status.st_uid)}"
    if not status.st_mode & stat.S_ISVTX:
        everybody, group = status.st_mode & stat.S_IWOTH, status.st_mode & stat.S_IWGRP
        if everybody or (group and not _group_of_one(status.st_gid, status.st_uid)):
            return _open_to_others(status, path)
    return None


def _group_of_one(group: int, user: int) -> bool:
    """Whether a group is root's, or a user's private group, which many systems let write to the user's home."""
    try:
        name, members = grp.getgrgid(group).gr_name, grp.getgrgid(group).gr_mem
        owner = pwd.getpwuid(user).pw_name
    except KeyError:
        return False
    return group == 0 or (name == owner and set(members) <= {owner})


def _ours(status: os.stat_result) -> bool:
    return status.st_uid in (0, os.geteuid())


def _name(user: int) -> str:
    try:
        return f"the user {pwd.getpwuid(user).pw_name}"
    except KeyError:
        return f"user {user}"
