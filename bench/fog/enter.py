"""Become a process of a node: join its control groups and network namespace, take its host name, run a command.

    python -I -S enter.py STATE NODE COMMAND…          run COMMAND in node NODE of the bed that STATE describes
    enter.py STATE agent [OPTIONS] ADDRESS COMMAND…    the same, called like ssh by an MPI launcher

The process id stays, so signals and exit codes pass through. Standard library only: it runs before every command.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
from pathlib import Path

CLONE_NEWNET = 0x40000000
CLONE_NEWUTS = 0x04000000
SSH_OPTIONS_WITH_VALUE = ("-l", "-p", "-o", "-i")


def enter(members: list[str], netns: str, hostname: str) -> None:
    """Move the calling process into a node, for good."""
    for group in members:
        Path(group).write_text(str(os.getpid()))
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = os.open(f"/run/netns/{netns}", os.O_RDONLY | os.O_CLOEXEC)
    for call, arguments in (("setns", (descriptor, CLONE_NEWNET)), ("unshare", (CLONE_NEWUTS,))):
        if getattr(libc, call)(*arguments):
            code = ctypes.get_errno()
            raise OSError(code, f"{call}: {os.strerror(code)}")
    os.close(descriptor)
    name = hostname.encode()
    libc.sethostname(name, len(name))


def main(arguments: list[str]) -> None:
    state = json.loads(Path(arguments[0]).read_text())
    which, command = arguments[1], arguments[2:]
    if which == "agent":
        while command[0].startswith("-"):
            command = command[2:] if command[0] in SSH_OPTIONS_WITH_VALUE else command[1:]
        address, *words = command
        node = next(node for node in state["nodes"] if address in (node["address"], node["name"]))
        command = ["/bin/sh", "-c", " ".join(words)]  # as ssh does: the words are joined and a shell reads them
    else:
        node = state["nodes"][int(which)]
    enter(node["members"], node["netns"], node["name"])
    os.environ["HOSTNAME"] = node["name"]
    try:
        os.execvp(command[0], command)
    except OSError as error:
        print(f"{command[0]}: {error.strerror}", file=sys.stderr)
        sys.exit(127)


if __name__ == "__main__":
    main(sys.argv[1:])
