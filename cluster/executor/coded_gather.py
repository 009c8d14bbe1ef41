"""Gather: the master takes a layer's pieces as they arrive, and replaces those that are lost, late or wrong.

a piece arrived  it is checked, where there is a check; a wrong one is computed here and its worker is named
one is missing   and all others and the code have arrived: it is the code minus the others
more are missing lost, or later than the patience: computed here from the master's own input; later arrivals are dropped
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from fogconv.cluster.executor.interface import Binder, Run
from fogconv.cluster.executor.mailbox import GatherMailbox
from fogconv.errors import ClusterError
from fogconv.guards.checksums import disagreement, remaining
from fogconv.guards.rounding import Rounding
from fogconv.ir.steps import Check, Gather, Piece, Recv
from fogconv.kernels.codegen.isa import host_isa
from fogconv.kernels.conv.select import candidates
from fogconv.kernels.maps.pack import pack, unpack


def bind_gather(step: Gather, executable: Binder) -> Callable[[Run], None]:
    """The call of a Gather; rarely needed parts (spares, subtraction) are bound on first use."""
    gathering = Gathering(step, executable)
    return gathering.run


class Gathering:
    def __init__(self, step: Gather, executable: Binder) -> None:
        self._step = step
        self._executable = executable
        self._inserts = [executable.insert(piece.recv) for piece in step.pieces]
        self._insert_code = None if step.code is None else executable.insert(step.code)
        self._checks = [
            None if piece.check is None else _bind_check(piece, piece.check, executable) for piece in step.pieces
        ]
        self._spares: dict[int, Callable[[], None]] = {}
        self._layer = executable.program.layers[step.layer]

    def run(self, run: Run) -> None:
        mailbox = run.mailbox
        if not isinstance(mailbox, GatherMailbox):
            raise ClusterError(f"{type(mailbox).__name__} can't gather")
        pieces, code = self._step.pieces, self._step.code
        missing = list(range(len(pieces)))
        for number in [n for n in missing if pieces[n].recv.origin in mailbox.given_up]:
            self._compute(number)
            missing.remove(number)
        coded = False
        lost: list[int] = []
        deadline = time.monotonic() + self._step.patience_s if self._step.patience_s else None
        while missing:
            if coded and len(missing) == 1:
                self._subtract(missing.pop(), mailbox, gone=bool(lost))
                break
            hope = code is not None and not coded
            while len(lost) > (1 if hope or coded else 0):
                number = lost.pop()
                self._recompute(number, mailbox, "is lost")
                missing.remove(number)
            wanted: list[Recv] = [pieces[n].recv for n in missing if n not in lost]
            if hope and code is not None:
                wanted.append(code)
            if not wanted:
                continue
            found = mailbox.receive_any([(recv.origin, recv.tag) for recv in wanted], deadline)
            if found is None:
                for number in missing:
                    self._recompute(number, mailbox, f"is late by {self._step.patience_s:.2f} s")
                    mailbox.give_up(pieces[number].recv.origin)
                if hope and code is not None:
                    mailbox.give_up(code.origin)
                break
            index, payload = found
            run.ready_ns = time.perf_counter_ns()
            if hope and index == len(wanted) - 1:
                if payload is None:
                    code = None
                elif self._insert_code is not None:
                    self._insert_code(payload)
                    coded = True
                continue
            number = [n for n in missing if n not in lost][index]
            if payload is None:
                lost.append(number)
                continue
            self._inserts[number](payload)
            missing.remove(number)
            self._verify(number, mailbox)
        if code is not None and not coded and code.origin not in mailbox.given_up:
            mailbox.skip(code.origin)

    def _verify(self, number: int, mailbox: GatherMailbox) -> None:
        check = self._checks[number]
        if check is None:
            return
        wrong = check()
        if wrong is not None:
            self._recompute(
                number, mailbox, f"computed a wrong result (its checksum is off by {wrong:.1e} of the largest value)"
            )

    def _recompute(self, number: int, mailbox: GatherMailbox, why: str) -> None:
        origin = self._step.pieces[number].recv.origin
        mailbox.tell(f"worker {origin} {why}: the master computed its part of {self._layer}")
        self._compute(number)

    def _compute(self, number: int) -> None:
        call = self._spares.get(number)
        if call is None:
            call = self._spares[number] = self._executable.compute(self._step.pieces[number].spare)
        call()

    def _subtract(self, number: int, mailbox: GatherMailbox, gone: bool) -> None:
        """Compute the one missing piece: the code minus all others, cut to its channels."""
        code = self._step.code
        assert code is not None
        view = self._executable.view
        others = (
            unpack(view(piece.recv.target, piece.recv.region))
            for other, piece in enumerate(self._step.pieces)
            if other != number
        )
        recv = self._step.pieces[number].recv
        piece = remaining(unpack(view(code.target, code.region)), others, len(recv.region.channels))
        pack(piece, out=view(recv.target, recv.region))
        # The last of the pieces and the code to arrive is random, so only a loss is reported.
        if gone:
            mailbox.tell(f"worker {recv.origin} is lost: its part of {self._layer} is the code minus the others")
        mailbox.skip(recv.origin)
        self._verify(number, mailbox)


def _bind_check(piece: Piece, check: Check, executable: Binder) -> Callable[[], float | None]:
    """The error of a piece's sums, relative to its largest value; None where rounding explains it."""
    spare = piece.spare
    values, sums = executable.view(piece.recv.target, piece.recv.region), executable.view(check.source, check.region)
    source = executable.view(spare.source, spare.source_region)
    rows, weight = executable.weight(check.signs), executable.weight(spare.weight)
    rounding = Rounding.of(
        rows, weight, grouped=spare.spec.groups > 1, winograd="winograd4" in candidates(spare.spec, host_isa())
    )

    def call() -> float | None:
        part = unpack(values)
        off = disagreement(rows, part, unpack(sums))
        largest = float(np.abs(part).max())
        most = rounding.most(largest, float(np.abs(source.interior).max()))
        # NaN and infinity are wrong as well.
        return None if off <= most and np.isfinite(off) else off / max(largest, 1e-30)

    return call
