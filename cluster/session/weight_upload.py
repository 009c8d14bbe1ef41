"""Shipping: sends weights to all workers at once, each worker's queue bounded by a window."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from fogconv.cluster.protocol import messages as m
from fogconv.cluster.session.loaded_program import Progress
from fogconv.cluster.session.workers import Workers
from fogconv.cluster.transport.dispatcher import Dispatcher
from fogconv.ir.memory.footprint import SHIPPED_BYTES
from fogconv.ir.precision.elements import weight_type

WINDOW_BYTES = SHIPPED_BYTES
"""The most bytes of weights sent to one worker that it has not acknowledged."""
LEAST_BYTES_PER_S = 36e3
"""A worker that acknowledges nothing for as long as the window takes at this rate (15 minutes) is lost."""


class Shipping:
    """``requests[rank]`` is the load for which ``missing[rank]`` are shipped. ``total_of[rank]``: the bytes. ``behind``:
    runs go on meanwhile, and their messages overtake these weights."""

    def __init__(
        self,
        workers: Workers,
        board: Dispatcher,
        requests: Mapping[int, int],
        missing: Mapping[int, Sequence[str]],
        weights: Mapping[str, NDArray[np.float32]],
        timeout_s: float,
        progress: Callable[[Progress], None] | None,
        behind: bool = False,
    ) -> None:
        self._workers = workers
        self._board = board
        self._requests = requests
        self._weights = weights
        self._timeout_s = timeout_s
        self._queues = {rank: list(keys) for rank, keys in missing.items() if keys}
        self._flying: dict[int, dict[str, int]] = {rank: {} for rank in self._queues}
        self._progress = progress
        self._behind = behind
        self._shipped = 0
        self.total_of = {rank: sum(weights[key].nbytes for key in keys) for rank, keys in missing.items()}
        self._total = sum(self.total_of.values())

    def start(self) -> None:
        """Fill the windows; the links work while the master prepares its own program."""
        self.report(0)
        for rank in self._queues:
            self._fill(rank)

    def finish(self) -> None:
        """Send the rest. Returns when the workers have acknowledged all. Raises WorkerLostError and the error of a
        Failed."""
        while any(self._flying.values()):
            under_way = max(sum(flying.values()) for flying in self._flying.values())
            if self._board.wait(self._collect, self._timeout_s + under_way / LEAST_BYTES_PER_S) is None:
                self._give_up()
            for rank in self._queues:
                self._fill(rank)
            self.report(0)

    def _give_up(self) -> None:
        """Raises WorkerLostError."""
        silent = {rank: sum(flying.values()) for rank, flying in self._flying.items() if flying}
        with self._board.lock:
            for rank, nbytes in silent.items():
                reason = f"it has acknowledged none of {nbytes / 1e6:.1f} MB of weights in time"
                self._workers.lose(self._workers.records[rank], reason)
        for rank in silent:
            self._workers.require(rank, self._requests[rank])

    def report(self, ready: int) -> None:
        if self._progress is not None:
            self._progress(Progress(self._shipped, self._total, ready, len(self._requests)))

    def _fill(self, rank: int) -> None:
        queue, flying = self._queues[rank], self._flying[rank]
        while queue and sum(flying.values()) < WINDOW_BYTES:
            key = queue.pop()
            array = np.ascontiguousarray(self._weights[key])
            flying[key] = array.nbytes
            self._workers.shipping.setdefault(rank, set()).add(key)
            payload = array.reshape(-1).view(np.uint8).data if array.size else b""
            self._workers.post(rank, m.Weight(key, array.shape, weight_type(array)), payload, behind=self._behind)

    def _collect(self) -> bool | None:
        """Under the dispatcher's lock: take the received acknowledgements."""
        workers, came = self._workers, False
        for rank, flying in self._flying.items():
            if flying:
                workers.require(rank, self._requests[rank])
                workers.raise_failure(rank, self._requests[rank])
            for key in workers.stored.get(rank, set()) & flying.keys():
                workers.stored[rank].discard(key)
                workers.shipping[rank].discard(key)
                self._shipped += flying.pop(key)
                came = True
        return True if came else None
