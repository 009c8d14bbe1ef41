"""The process of one attack: ``python -m bench.hostile.strike NAME ADDRESS SPARE TOKEN SECONDS``."""

from __future__ import annotations

import os
import sys
import time

from bench.hostile.attacks import ATTACKS, Victim


def main(name: str, address: str, spare: str, token: str, seconds: str) -> None:
    # Those who attack have machines of their own; here they share the cores with those whom they attack.
    os.nice(10)
    (attack,) = (attack for attack in ATTACKS if attack.name == name)
    attack.strike(Victim(address, spare, bytes.fromhex(token), time.monotonic() + float(seconds)))


if __name__ == "__main__":
    main(*sys.argv[1:6])
