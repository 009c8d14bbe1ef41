"""A network whose name server never answers, as root, in a network and mount namespace of its own (``unshare -n -m``):

    python -m tests.cluster.transport.zeromq.silent_names CALLER...

CALLER are the caller's namespaces, in which nothing may be changed. It prints what became of the links, as JSON.

    worker.test  127.0.0.1  by /etc/hosts
    six.test     ::1 and 127.0.0.1 by /etc/hosts
    silent.test  asked of 127.0.0.53, where a socket takes the questions and says nothing
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from fogconv.cluster.protocol import codec
from fogconv.cluster.protocol import messages as m
from fogconv.cluster.transport.endpoint import Arrival, Loss
from fogconv.cluster.transport.zeromq.endpoint import ZeromqEndpoint
from tests.cluster.transport.contract import echoing, messages_without_payload_arrive

HOSTS = "127.0.0.1 localhost\n127.0.0.1 worker.test\n::1 six.test\n127.0.0.1 six.test\n"
SCOPED = "fe80::77"
PORT = 5599


def bind_over(path: str, text: str) -> None:
    """Let a file of /etc read differently in this mount namespace."""
    with tempfile.NamedTemporaryFile("w", delete=False) as file:
        file.write(text)
    subprocess.run(["mount", "--bind", file.name, path], check=True)
    os.unlink(file.name)  # noqa: PTH108


def namespaces() -> list[str]:
    """Names of this process's network and mount namespaces."""
    return [str(Path(f"/proc/self/ns/{kind}").readlink()) for kind in ("net", "mnt")]


def main() -> None:
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    subprocess.run(["ip", "link", "add", "v0", "type", "veth", "peer", "name", "v1"], check=True)
    for card in ("v0", "v1"):
        subprocess.run(["ip", "link", "set", card, "up"], check=True)
    subprocess.run(["ip", "addr", "add", f"{SCOPED}/64", "dev", "v0", "nodad"], check=True)
    bind_over("/etc/hosts", HOSTS)
    bind_over("/etc/resolv.conf", "nameserver 127.0.0.53\n")
    bind_over("/etc/nsswitch.conf", "hosts: files dns\n")
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(("127.0.0.53", 53))
    found: dict[str, object] = {}
    with echoing(ZeromqEndpoint(f"tcp://*:{PORT}")):
        here = ZeromqEndpoint(heartbeat_s=0.5)
        other = here.connect(f"tcp://worker.test:{PORT}")
        messages_without_payload_arrive(here, other)
        peer = here.connect(f"tcp://silent.test:{PORT}")
        begin = time.monotonic()
        event = here.receive(30.0)
        found["silent"] = event.reason if isinstance(event, Loss) and event.peer == peer else repr(event)
        found["after_s"] = time.monotonic() - begin
        here.send(other, codec.encode(m.Hello(bytes(16), 1, 2, "test", 1.0)))
        found["other"] = isinstance(here.receive(10.0), Arrival)
        for host in ("six.test", f"[{SCOPED}%v0]", "[::1]", "localhost"):
            messages_without_payload_arrive(here, here.connect(f"tcp://{host}:{PORT}"))
        found["asked"] = bool(server.recv(512))
        here.connect(f"tcp://silent.test:{PORT}")
        begin = time.monotonic()
        here.close()
        found["closing_s"] = time.monotonic() - begin
    print(json.dumps(found), flush=True)
    sys.stderr.flush()


if __name__ == "__main__":
    caller = sys.argv[1:]
    assert len(caller) == 2 and not set(caller) & set(namespaces()), "not in the caller's own network and mounts"
    main()
