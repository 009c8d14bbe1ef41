"""Unix sockets: the file of a worker that listens at ipc://PATH: for its owner only, and gone when the worker ends."""

from __future__ import annotations

import errno
import os
import socket
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from fogconv.errors import ConnectError

OWNER_ONLY = 0o600
BACKLOG = 128
"""Connections that may wait to be accepted."""
CONNECT_S = 1.0


@dataclass(frozen=True, slots=True)
class SocketFile:
    """A listening socket's file, by its place on disk, so that no other process's file is removed."""

    path: Path
    device: int
    inode: int

    def remove(self) -> None:
        """Remove it, unless something else stands there by now."""
        with suppress(OSError):
            found = self.path.lstat()
            if (found.st_dev, found.st_ino) == (self.device, self.inode):
                self.path.unlink()


def listen_at(path: Path) -> tuple[int, SocketFile]:
    """The descriptor of a socket that listens at a path with mode 0600, whatever the umask is; and its file.

    A socket that no process listens on any more is replaced. Raises ConnectError where a process does listen, and where
    anything else stands: it stays as it is.
    """
    _clear(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    bound = False
    try:
        # Before bind: the file then never has more permissions than these, not even for a moment.
        os.fchmod(listener.fileno(), OWNER_ONLY)
        listener.bind(str(path))
        bound = True
        found = path.lstat()
        file = SocketFile(path, found.st_dev, found.st_ino)
        if stat.S_IMODE(found.st_mode) != OWNER_ONLY:  # a umask that takes the owner's permissions
            path.chmod(OWNER_ONLY)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        if bound:
            with suppress(OSError):
                path.unlink()
        if error.errno == errno.EADDRINUSE:
            raise _in_use(path) from error
        raise ConnectError(f"ipc://{path} can't be bound: {error.strerror or error}") from error
    return listener.detach(), file


def answers(path: Path) -> str:
    """Why no process answers at a Unix socket; empty if one does."""
    try:
        with socket.socket(socket.AF_UNIX) as plain:
            plain.settimeout(CONNECT_S)
            plain.connect(str(path))
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _clear(path: Path) -> None:
    """Take away a socket that was left behind."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise ConnectError(f"ipc://{path} can't be bound: {error.strerror}") from error
    if not stat.S_ISSOCK(mode):
        raise ConnectError(f"ipc://{path} can't be bound: there is a {_kind(mode)}, which stays; choose another path")
    if not _abandoned(path):
        raise _in_use(path)
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise ConnectError(f"ipc://{path} can't be bound: an old socket can't be removed: {error.strerror}") from error


def _abandoned(path: Path) -> bool:
    """Whether no process listens on a socket. In doubt (no permission, a full queue) one does."""
    try:
        with socket.socket(socket.AF_UNIX) as plain:
            plain.settimeout(CONNECT_S)
            plain.connect(str(path))
    except (ConnectionRefusedError, FileNotFoundError):
        return True
    except OSError:
        return False
    return False


def _in_use(path: Path) -> ConnectError:
    return ConnectError(f"ipc://{path} is in use: another worker may run there; choose another address")


def _kind(mode: int) -> str:
    kinds = {stat.S_IFDIR: "folder", stat.S_IFLNK: "link", stat.S_IFIFO: "pipe", stat.S_IFREG: "file"}
    return kinds.get(stat.S_IFMT(mode), "device")
