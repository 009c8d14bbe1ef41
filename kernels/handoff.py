"""Handing a compiled call to a waiting thread without the GIL, and waiting for its end.

Waking a sleeping thread takes 50 to 100 µs on a virtual machine, as long as a small layer. So a helper that has just
finished spins for up to ``SPINS`` rounds before it sleeps; between the layers of a network it rarely sleeps. The same
holds for a caller that waits for the helpers' last tiles. The spin is bounded, at about 50 µs.

    caller   writes the call, OPEN and TICKET; wakes the helper if it was ASLEEP … does its own part … takes the call back if
             it is still OPEN, else waits for DONE = TICKET
    helper   waits for TICKET; takes the call if it is OPEN; calls; writes DONE; wakes the caller if it was WAITING

Each side sets its sleep flag, then checks once more. The side that clears the flag (an atomic exchange) must wake the
other, so that no wake-up is lost or sent twice. They sleep on the flag itself, by Linux's futex, in compiled code: with a
semaphore of Python's a thread that wakes waits for the GIL first, and needs code that no cache holds after a pause. The side
that clears OPEN (a compare and exchange) does the call: a helper that wakes late, or whose core is busy, delays no one.

A helper that spins on the caller's own core keeps it from computing, and Linux does put it there: mobilenet_v2 on two
threads took 2.4 times as long as on one. So a helper states the cores on which it may run (CORES), and the caller compares
them with its own; `fogconv.kernels.threads` then moves the helper away.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from numba.core import types
from numba.core.dispatcher import Dispatcher
from numba.np import arrayobj as _arrayobj
from numpy.typing import NDArray

from fogconv.ir.geometry import BLOCK
from fogconv.kernels.codegen import vector
from fogconv.kernels.codegen.emit import I64, Builder
from fogconv.kernels.codegen.jit import jit
from fogconv.kernels.codegen.native import atomics, system
from fogconv.kernels.codegen.native.calls import call_address, function_address
from fogconv.kernels.maps.bound import address_of

arrayobj: Any = _arrayobj  # no annotations in this library

Control = NDArray[np.int64]

# Offsets in the control block: the caller's cache line, then the helper's.
TICKET, CODE, NUMBERS, LENGTH, WAITING, OPEN, CORES = 0, 1, 2, 3, 4, 5, 6
DONE, ASLEEP = 8, 9

SPINS = 2000
"""Rounds, with a pause in each: 20 to 80 µs in all, depending on the CPU."""

SLEEP, WAKE, PYTHON = 1, 2, 3
"""The reasons for which `serve` returns: sleep until woken; wake the caller; run a Python call."""

ASLEEP_NOW, SAME_CORE = 1, 2
"""What `start` returns, as a sum: the helper sleeps and must be woken; it may run on the caller's core."""

MOST_CORES = 63
"""CORES has a bit for each of the first cores."""

KERNEL = types.void(types.int64[::1])
"""The signature of every kernel that `fogconv.kernels.maps.bound.bind` binds."""


def control_block() -> Control:
    """A new control block, on cache lines of its own."""
    raw = np.zeros(2 * BLOCK + 8, np.int64)
    start = -address_of(raw) % 64 // 8
    return raw[start : start + 2 * BLOCK]


@vector.intrinsic
def call(typingctx: Any, kernel: Any, numbers: Any, length: Any) -> Any:
    """Call a kernel by its address, on the numbers at an address."""

    def codegen(context: Any, builder: Builder, signature: Any, args: Any) -> Any:
        kernel, numbers, length = args
        array = arrayobj.make_array(KERNEL.args[0])(context, builder)
        data = builder.inttoptr(numbers, I64.as_pointer())
        arrayobj.populate_array(array, data=data, shape=[length], strides=[I64(8)], itemsize=I64(8), meminfo=None)
        call_address(context, builder, KERNEL, [kernel, array._getvalue()])
        return context.get_dummy_value()

    return types.void(*[types.int64] * 3), codegen


@jit
def serve(c, done):  # type: ignore[no-untyped-def]
    """The helper's loop after the ticket ``done``. Returns when Python is needed: `SLEEP`, `WAKE` or `PYTHON`."""
    control = c.ctypes.data
    while True:
        spins = 0
        while atomics.read(control + 8 * TICKET) == done:
            if spins == SPINS:
                atomics.write(control + 8 * ASLEEP, 1)
                if atomics.read(control + 8 * TICKET) == done or atomics.exchange(control + 8 * ASLEEP, 0) == 0:
                    return SLEEP  # in the second case the caller is about to wake this thread
                break
            spins += 1
            atomics.pause()
        done = atomics.read(control + 8 * TICKET)
        if not atomics.take(control + 8 * OPEN, done):
            continue  # the caller took it back
        if c[CODE] == 0:
            return PYTHON
        call(c[CODE], c[NUMBERS], c[LENGTH])
        if _finished(control, done):
            return WAKE


@jit
def sleep(flag):  # type: ignore[no-untyped-def]
    """Return when the flag at an address, which was set before the last check, has been cleared."""
    while atomics.read(flag) == 1:
        system.futex(flag, system.SLEEPS, 1)


@jit
def wake(flag):  # type: ignore[no-untyped-def]
    """Wake the thread that sleeps on a flag, which the caller has cleared."""
    system.futex(flag, system.WAKES, 1)


@jit
def serve_on(c, done):  # type: ignore[no-untyped-def]
    """`serve`, with the sleeping and waking, until there is a Python call to do."""
    control = c.ctypes.data
    while True:
        reason = serve(c, done)
        if reason == PYTHON:
            return
        if reason == SLEEP:
            sleep(control + 8 * ASLEEP)
        else:
            wake(control + 8 * WAITING)
        done = atomics.read(control + 8 * DONE)


@jit
def _finished(control, ticket):  # type: ignore[no-untyped-def]
    """Mark a ticket as done. Returns whether the caller sleeps and must be woken."""
    atomics.write(control + 8 * DONE, ticket)
    return atomics.exchange(control + 8 * WAITING, 0) == 1


@jit
def finished(c, ticket):  # type: ignore[no-untyped-def]
    """After a Python call: mark a ticket as done, and wake the caller where it sleeps."""
    control = c.ctypes.data
    if _finished(control, ticket):
        wake(control + 8 * WAITING)


@jit
def begin(control, code, numbers, length):  # type: ignore[no-untyped-def]
    """Hand over a call to the helper with the control block at an address. Returns (its ticket, whether the helper sleeps
    and must be woken). A code of 0 is a Python call."""
    ticket = atomics.read(control + 8 * TICKET) + 1
    vector.store_long(control + 8 * CODE, code)
    vector.store_long(control + 8 * NUMBERS, numbers)
    vector.store_long(control + 8 * LENGTH, length)
    atomics.write(control + 8 * OPEN, ticket)
    atomics.write(control + 8 * TICKET, ticket)
    return ticket, atomics.exchange(control + 8 * ASLEEP, 0) == 1


@jit
def shares_core(control):  # type: ignore[no-untyped-def]
    """Whether the helper with the control block at an address may run on this thread's core."""
    core = system.core()
    return 0 <= core < MOST_CORES and atomics.read(control + 8 * CORES) >> core & 1 == 1


@jit
def start(c, ticket, code, numbers, length):  # type: ignore[no-untyped-def]
    """Hand over a call as this ticket, the one after the last. Returns what is left to do: 0, or the sum of `ASLEEP_NOW` and
    `SAME_CORE`."""
    control = c.ctypes.data
    _, asleep = begin(control, code, numbers, length)
    return (ASLEEP_NOW if asleep else 0) + (SAME_CORE if shares_core(control) else 0)


@jit
def hand_over(c, code, numbers, length):  # type: ignore[no-untyped-def]
    """Hand over a call; the helper is woken where it sleeps. Returns the ticket."""
    control = c.ctypes.data
    ticket, asleep = begin(control, code, numbers, length)
    if asleep:
        wake(control + 8 * ASLEEP)
    return ticket


@jit
def core():  # type: ignore[no-untyped-def]
    """The number of the core that runs this thread; below 0 where the system does not say."""
    return system.core()


@jit
def take(control, ticket):  # type: ignore[no-untyped-def]
    """Whether the helper had not begun this ticket's call, and won't."""
    return atomics.take(control + 8 * OPEN, ticket)


@jit
def take_back(c, ticket):  # type: ignore[no-untyped-def]
    """`take`, for Python."""
    return take(c.ctypes.data, ticket)


@jit
def _wait(control, ticket):  # type: ignore[no-untyped-def]
    for _ in range(SPINS):
        if atomics.read(control + 8 * DONE) == ticket:
            return False
        atomics.pause()
    atomics.write(control + 8 * WAITING, 1)
    return atomics.read(control + 8 * DONE) != ticket or atomics.exchange(control + 8 * WAITING, 0) == 0


@jit
def wait(c, ticket):  # type: ignore[no-untyped-def]
    """Wait for a ticket. Returns True when the helper takes long, so that the caller must sleep until woken."""
    return _wait(c.ctypes.data, ticket)


@jit
def finish(control, ticket):  # type: ignore[no-untyped-def]
    """Return when a ticket is done."""
    if _wait(control, ticket):
        sleep(control + 8 * WAITING)


@jit
def wait_until_done(c, ticket):  # type: ignore[no-untyped-def]
    """`finish`, for Python."""
    finish(c.ctypes.data, ticket)


def compiled(call: Any) -> tuple[int, int, int] | None:
    """(code, numbers, length) of a call that `fogconv.kernels.maps.bound.bind` made, or None for any other."""
    if not isinstance(call, partial) or not isinstance(call.func, Dispatcher):
        return None
    (numbers,) = call.args
    return function_address(call.func, KERNEL), address_of(numbers), len(numbers)


def warm_up() -> None:
    """Compile what Python calls."""
    block, number = types.int64[::1], types.int64
    serve_on.compile((block, number))
    finished.compile((block, number))
    hand_over.compile((block, number, number, number))
    take_back.compile((block, number))
    wait_until_done.compile((block, number))
    core.compile(())
