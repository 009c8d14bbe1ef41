"""What compiled code asks of Linux: the time, the core, to sleep and to wake."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils as _cgutils
from numba.core import types

from fogconv.kernels.codegen.emit import I32, I64, Builder, cpu_family
from fogconv.kernels.codegen.vector import intrinsic

cgutils: Any = _cgutils  # no annotations in this library

MONOTONIC = 1
"""Linux's number for the clock of time.perf_counter_ns."""

SLEEPS, WAKES = 128, 129
"""FUTEX_WAIT and FUTEX_WAKE, private to the process."""

SYSTEM_CALL = {"x86": 202}
"""Linux's number for futex, by the CPU's family; all newer ones have `NEWER_SYSTEM_CALL`."""

NEWER_SYSTEM_CALL = 98

NEVER_WAIT = 0x40 | 0x4000
"""MSG_DONTWAIT and MSG_NOSIGNAL, of send."""

UNSENT = 0x5411
"""TIOCOUTQ, of ioctl: how many bytes have been sent that the other end has not acknowledged."""


def _of_libc(builder: Builder, name: str, kind: ir.FunctionType) -> Any:
    """A function of the C library, declared in this module."""
    return builder.module.globals.get(name) or ir.Function(builder.module, kind, name)


@intrinsic
def core(typingctx: Any) -> Any:
    """The number of the core that runs this thread; below 0 where the system does not say."""

    def codegen(context: Any, builder: Builder, signature: Any, args: Any) -> Any:
        return builder.call(_of_libc(builder, "sched_getcpu", ir.FunctionType(I32, [])), [])

    return types.int32(), codegen


@intrinsic
def futex(typingctx: Any, address: Any, operation: Any, value: Any) -> Any:
    """Linux's futex on the lower half of the number at an address, without a time limit."""

    def codegen(context: Any, builder: Builder, signature: Any, args: Any) -> Any:
        address, operation, value = args
        number = SYSTEM_CALL.get(cpu_family(builder), NEWER_SYSTEM_CALL)
        function = _of_libc(builder, "syscall", ir.FunctionType(I64, [I64], var_arg=True))
        builder.call(function, [I64(number), address, operation, value, I64(0), I64(0), I64(0)])
        return context.get_dummy_value()

    return types.void(*[types.int64] * 3), codegen


@intrinsic
def now(typingctx: Any) -> Any:
    """Nanoseconds on that clock, as int64."""

    def codegen(context: Any, builder: Builder, signature: Any, args: Any) -> Any:
        kind = ir.ArrayType(I64, 2)
        place = cgutils.alloca_once(builder, kind)
        function = _of_libc(builder, "clock_gettime", ir.FunctionType(I32, [I32, kind.as_pointer()]))
        builder.call(function, [I32(MONOTONIC), place])
        time = builder.load(place)
        seconds, rest = builder.extract_value(time, 0), builder.extract_value(time, 1)
        return builder.add(builder.mul(seconds, I64(1_000_000_000)), rest)

    return types.int64(), codegen


@intrinsic
def send(typingctx: Any, descriptor: Any, address: Any, count: Any) -> Any:
    """Send so many bytes over a socket, as far as it takes them now. Returns how many; below 0 for none."""

    def codegen(context: Any, builder: Builder, signature: Any, args: Any) -> Any:
        descriptor, address, count = args
        function = _of_libc(builder, "send", ir.FunctionType(I64, [I32, I64, I64, I32]))
        return builder.call(function, [builder.trunc(descriptor, I32), address, count, I32(NEVER_WAIT)])

    return types.int64(*[types.int64] * 3), codegen


@intrinsic
def receive(typingctx: Any, descriptor: Any, address: Any, count: Any) -> Any:
    """Take at most so many bytes that have come over a socket. Returns how many; 0 at its end, below 0 for none."""

    def codegen(context: Any, builder: Builder, signature: Any, args: Any) -> Any:
        descriptor, address, count = args
        function = _of_libc(builder, "recv", ir.FunctionType(I64, [I32, I64, I64, I32]))
        return builder.call(function, [builder.trunc(descriptor, I32), address, count, I32(NEVER_WAIT)])

    return types.int64(*[types.int64] * 3), codegen


@intrinsic
def poll(typingctx: Any, structs: Any, count: Any, milliseconds: Any) -> Any:
    """Wait until one of some descriptors has something to report. Returns how many have; 0 after the time."""

    def codegen(context: Any, builder: Builder, signature: Any, args: Any) -> Any:
        structs, count, milliseconds = args
        function = _of_libc(builder, "poll", ir.FunctionType(I32, [I64, I64, I32]))
        found = builder.call(function, [structs, count, builder.trunc(milliseconds, I32)])
        return builder.sext(found, I64)

    return types.int64(*[types.int64] * 3), codegen


@intrinsic
def unsent(typingctx: Any, descriptor: Any) -> Any:
    """How many bytes of a socket are on their way; 0 where the system does not say."""

    def codegen(context: Any, builder: Builder, signature: Any, args: Any) -> Any:
        place = cgutils.alloca_once(builder, I32)
        builder.store(I32(0), place)
        function = _of_libc(builder, "ioctl", ir.FunctionType(I32, [I32, I64], var_arg=True))
        builder.call(function, [builder.trunc(args[0], I32), I64(UNSENT), place])
        return builder.zext(builder.load(place), I64)

    return types.int64(types.int64), codegen
