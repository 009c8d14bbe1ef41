"""A network whose name server never answers: a network and a mount namespace of its own (root and ``unshare`` only).

Names of HOSTS have numbers; all others are asked of 127.0.0.53, where a socket takes the questions and answers none.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

HOSTS = "127.0.0.1 localhost\n127.0.0.1 worker.test\n::1 six.test\n127.0.0.1 six.test\n"
NAME_SERVER = ("127.0.0.53", 53)
UNSHARE = ("unshare", "--net", "--mount")


def trouble() -> str:
    """Why this process can't make such a network; empty where it can."""
    if os.geteuid() or shutil.which("unshare") is None or shutil.which("ip") is None:
        return "it needs root, unshare and ip"
    if subprocess.run([*UNSHARE, "true"], capture_output=True, check=False).returncode:
        return "namespaces are not allowed here"
    return ""


def command(module: str, arguments: Sequence[str]) -> list[str]:
    """A command line that runs ``module`` in new namespaces. Its last two arguments are for ``enter``."""
    return [*UNSHARE, sys.executable, "-m", module, *arguments, *_namespaces()]


def enter(outside: Sequence[str]) -> socket.socket:
    """Build the network in this process's namespaces, which are not those named by ``outside``. Returns the name server's
    socket, to be kept open."""
    if len(outside) != 2 or set(outside) & set(_namespaces()):
        raise RuntimeError("these are the caller's own network and mounts, in which nothing may be changed")
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    _bind_over("/etc/hosts", HOSTS)
    _bind_over("/etc/resolv.conf", f"nameserver {NAME_SERVER[0]}\n")
    _bind_over("/etc/nsswitch.conf", "hosts: files dns\n")
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(NAME_SERVER)
    return server


def _bind_over(path: str, text: str) -> None:
    """Let a file of /etc read differently in this mount namespace."""
    with tempfile.NamedTemporaryFile("w", delete=False) as file:
        file.write(text)
    subprocess.run(["mount", "--bind", file.name, path], check=True)
    Path(file.name).unlink()


def _namespaces() -> list[str]:
    return [str(Path(f"/proc/self/ns/{kind}").readlink()) for kind in ("net", "mnt")]
