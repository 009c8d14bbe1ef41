"""Links in a network whose name server never answers (bench.hostile.silent_network); what became of them, as JSON."""

from __future__ import annotations

import json
import subprocess
import sys
import time

from bench.hostile.silent_network import enter
from fogconv.cluster.protocol import codec
from fogconv.cluster.protocol import messages as m
from fogconv.cluster.transport.endpoint import Arrival, Loss
from fogconv.cluster.transport.zeromq.endpoint import ZeromqEndpoint
from tests.cluster.transport.contract import echoing, messages_without_payload_arrive

SCOPED = "fe80::77"
PORT = 5599


def main(outside: list[str]) -> None:
    server = enter(outside)
    subprocess.run(["ip", "link", "add", "v0", "type", "veth", "peer", "name", "v1"], check=True)
    for card in ("v0", "v1"):
        subprocess.run(["ip", "link", "set", card, "up"], check=True)
    subprocess.run(["ip", "addr", "add", f"{SCOPED}/64", "dev", "v0", "nodad"], check=True)
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
    main(sys.argv[1:])
