"""Handing a compiled call to a waiting thread without the GIL, and waiting for its end.

Waking a sleeping thread takes 50 to 100 µs on a virtual machine, as long as a small layer. So a helper that has just
finished spins for up to ``SPINS`` rounds before it sleeps; between the layers of a network it rarely sleeps. The same
holds for a caller that waits for the helpers' last tiles. The spin is bounded, at about 50 µs.

    caller   writes the call, OPEN and TICKET; wakes the helper if it was ASLEEP … does its own part … takes the call back if
             it is still OPEN, else waits for DONE = TICKET
    helper   waits for TICKET; takes the call if it is OPEN; calls; writes DONE; wakes the caller if it was WAITING

Each side sets its sleep flag, then checks once more. The side that clears the flag (an atomic exchange) must wake the
other, so that no wake-up is lost or sent twice. The side that clears OPEN (a compare and exchange) does the call: a helper
that wakes late, or whose core is busy, delays no one.

A helper that spins on the caller's own core keeps it from computing, and Linux does put it there: mobilenet_v2 on two
threads took 2.4 times as long as on one. So a helper states the cores on which it may run (CORES), and the caller compares
them with its own; `fogconv.kernels.threads` then moves the helper away.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.core.dispatcher import Dispatcher
from numba.np import arrayobj as _arrayobj
from numpy.typing import NDArray

from fogconv.ir.geometry import BLOCK
from fogconv.kernels.codegen import activation, vector
from fogconv.kernels.codegen.emit import I64, Builder, cpu_family
from fogconv.kernels.codegen.jit import jit
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
def _read(typingctx: Any, address: Any) -> Any:
    def codegen(context: Any, builder: Builder, signature: Any, args: Any) -> Any:
        return builder.load_atomic(builder.inttoptr(args[0], I64.as_pointer()), "seq_cst", 8)

    return types.int64(types.int64), codegen


@vector.intrinsic
def _write(typingctx: Any, address: Any, value: Any) -> Any:
    def codegen(context: Any, builder: Builder, signature: Any, args: Any) -> Any:
        builder.store_atomic(args[1], builder.inttoptr(args[0], I64.as_pointer()), "seq_cst", 8)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), codegen


@vector.intrinsic
def _exchange(typingctx: Any, address: Any, value: Any) -> Any:
    def codegen(context: Any, builder: Builder, signature: Any, args: Any) -> Any:
        return builder.atomic_rmw("xchg", builder.inttoptr(args[0], I64.as_pointer()), args[1], "seq_cst")

    return types.int64(types.int64, types.int64), codegen


@vector.intrinsic
def _take(typingctx: Any, address: Any, ticket: Any) -> Any:
    """Whether a ticket was at an address; a 0 is there afterwards."""

    def codegen(context: Any, builder: Builder, signature: Any, args: Any) -> Any:
        pointer = builder.inttoptr(args[0], I64.as_pointer())
        found = builder.cmpxchg(pointer, args[1], I64(0), "seq_cst", "seq_cst")
        return builder.extract_value(found, 1)

    return types.boolean(types.int64, types.int64), codegen


@vector.intrinsic
def _core(typingctx: Any) -> Any:
    """The number of the core that runs this thread; below 0 where the system does not say."""

    def codegen(context: Any, builder: Builder, signature: Any, args: Any) -> Any:
        name = "sched_getcpu"
        known = builder.module.globals.get(name)
        return builder.call(known or ir.Function(builder.module, ir.FunctionType(ir.IntType(32), []), name), [])

    return types.int32(), codegen


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


@vector.intrinsic
def _pause(typingctx: Any) -> Any:
    """Emit the CPU's spin-wait hint, where it has one."""

    def codegen(context: Any, builder: Builder, signature: Any, args: Any) -> Any:
        match cpu_family(builder):  # not the instruction set: $FOGCONV_ISA may ask for another CPU's tiles
            case "x86":
                activation.call_intrinsic(builder, "llvm.x86.sse2.pause", ir.VoidType())
            case "aarch64":
                activation.call_intrinsic(builder, "llvm.aarch64.hint", ir.VoidType(), ir.Constant(ir.IntType(32), 1))
        return context.get_dummy_value()

    return types.void(), codegen


@jit
def serve(c, done):  # type: ignore[no-untyped-def]
    """The helper's loop after the ticket ``done``. Returns when Python is needed: `SLEEP`, `WAKE` or `PYTHON`."""
    control = c.ctypes.data
    while True:
        spins = 0
        while _read(control + 8 * TICKET) == done:
            if spins == SPINS:
                _write(control + 8 * ASLEEP, 1)
                if _read(control + 8 * TICKET) == done or _exchange(control + 8 * ASLEEP, 0) == 0:
                    return SLEEP  # in the second case the caller is about to wake this thread
                break
            spins += 1
            _pause()
        done = _read(control + 8 * TICKET)
        if not _take(control + 8 * OPEN, done):
            continue  # the caller took it back
        if c[CODE] == 0:
            return PYTHON
        call(c[CODE], c[NUMBERS], c[LENGTH])
        if _finished(control, done):
            return WAKE


@jit
def _finished(control, ticket):  # type: ignore[no-untyped-def]
    """Mark a ticket as done. Returns whether the caller sleeps and must be woken."""
    _write(control + 8 * DONE, ticket)
    return _exchange(control + 8 * WAITING, 0) == 1


@jit
def finished(c, ticket):  # type: ignore[no-untyped-def]
    """`_finished`, after a Python call."""
    return _finished(c.ctypes.data, ticket)


@jit
def start(c, ticket, code, numbers, length):  # type: ignore[no-untyped-def]
    """Hand over a call as this ticket. Returns what is left to do: 0, or the sum of `ASLEEP_NOW` and `SAME_CORE`. A code of
    0 is a Python call."""
    control = c.ctypes.data
    c[CODE], c[NUMBERS], c[LENGTH] = code, numbers, length
    _write(control + 8 * OPEN, ticket)
    _write(control + 8 * TICKET, ticket)
    left = ASLEEP_NOW if _exchange(control + 8 * ASLEEP, 0) == 1 else 0
    core = _core()
    return left + SAME_CORE if 0 <= core < MOST_CORES and c[CORES] >> core & 1 else left


@jit
def core():  # type: ignore[no-untyped-def]
    """The number of the core that runs this thread; below 0 where the system does not say."""
    return _core()


@jit
def take_back(c, ticket):  # type: ignore[no-untyped-def]
    """Whether the helper had not begun this ticket's call, and won't."""
    return _take(c.ctypes.data + 8 * OPEN, ticket)


@jit
def wait(c, ticket):  # type: ignore[no-untyped-def]
    """Wait for a ticket. Returns True when the helper takes long, so that the caller must sleep until woken."""
    control = c.ctypes.data
    for _ in range(SPINS):
        if _read(control + 8 * DONE) == ticket:
            return False
        _pause()
    _write(control + 8 * WAITING, 1)
    return _read(control + 8 * DONE) != ticket or _exchange(control + 8 * WAITING, 0) == 0


def compiled(call: Any) -> tuple[int, int, int] | None:
    """(code, numbers, length) of a call that `fogconv.kernels.maps.bound.bind` made, or None for any other."""
    if not isinstance(call, partial) or not isinstance(call.func, Dispatcher):
        return None
    (numbers,) = call.args
    return function_address(call.func, KERNEL), address_of(numbers), len(numbers)


def warm_up() -> None:
    """Compile all of the above."""
    block = types.int64[::1]
    serve.compile((block, types.int64))
    finished.compile((block, types.int64))
    start.compile((block, *[types.int64] * 4))
    take_back.compile((block, types.int64))
    core.compile(())
    wait.compile((block, types.int64))
