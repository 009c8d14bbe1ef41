"""Rehearsal: a made-up net, distributed by the scheme that is measured, shows what a message costs between convs.

Pings find their code and data in the caches; between convs, with other nodes at work on the same cores, they don't. Pings
from caches that a copy emptied come near it (0.15 to 0.20 ms of a core for a message, where this finds 0.17 to 0.20), but
how cold to make them is a guess.
"""

from __future__ import annotations

import time

import numpy as np

from bench.made_up import made_up
from fogconv import program as ir
from fogconv.cluster.session import Session
from fogconv.lower import lower
from fogconv.planner import plan
from fogconv.simulate import simulate
from fogconv.topology import Topology

SIZE, CHANNELS = 112, (32, 64, 128, 256)
RUNS = 15


class Rehearsal:
    """Planned and loaded when made, without quotas, for ``guess``; run under them."""

    def __init__(self, session: Session, guess: Topology, scheme: str) -> None:
        self._session = session
        graph = made_up(SIZE, CHANNELS)
        # auto would rather not distribute so small a net at all.
        found = plan(graph, guess, scheme="rows" if scheme == "auto" else scheme, threshold=0.0)
        lowered = lower(graph, found)
        self._programs = lowered.programs
        self._loaded = session.load(lowered.programs, lowered.weights)
        self._image = np.random.default_rng(0).standard_normal((1, 3, SIZE, SIZE), np.float32)
        self._run()

    def message_s(self, topology: Topology, share: float) -> float:
        """Of a core, on the master, all threads: what an inference takes there beyond its computing and copying, ÷ its
        messages, those that begin and end it included. ``topology`` has the devices under their quotas, with messages for
        nothing; the master has ``share`` of a core."""
        self._run()
        begin = time.process_time()
        for _ in range(RUNS):
            self._run()
        spent_s = (time.process_time() - begin) / RUNS
        self._session.unload(self._loaded)
        computing_s = share * simulate(self._programs, topology, keep_events=False).processor_s[0]
        own = self._programs[0]
        messages = sum(isinstance(step, ir.Send | ir.Recv) for step in own.steps) + 2 * (len(self._programs) - 1)
        return max(0.0, spent_s - computing_s) / messages

    def _run(self) -> None:
        self._session.run(self._loaded, [self._image])
