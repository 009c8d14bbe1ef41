"""Several bound kernels as one call without Python between them, which keeps the time that each of its steps took.

The calls of a band are short, and there are hundreds of them: by the interpreter each costs a microsecond more, and a helper
thread (see `fogconv.kernels.threads`) would have to wait for the GIL.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba.core import cgutils as _cgutils
from numba.core import types

from fogconv.errors import KernelError
from fogconv.kernels import handoff
from fogconv.kernels.codegen import vector
from fogconv.kernels.codegen.emit import I32, I64, Builder
from fogconv.kernels.codegen.jit import jit, ready
from fogconv.kernels.maps.bound import SIGNATURE, Bound, bind

cgutils: Any = _cgutils  # no annotations in this library

HEADER, CALL = 2, 4

MONOTONIC = 1
"""Linux's number for the clock of time.perf_counter_ns."""


@vector.intrinsic
def _now(typingctx: Any) -> Any:
    """Nanoseconds on that clock, as int64."""

    def codegen(context: Any, builder: Builder, signature: Any, args: Any) -> Any:
        kind = ir.ArrayType(I64, 2)
        place = cgutils.alloca_once(builder, kind)
        name = "clock_gettime"
        known = builder.module.globals.get(name)
        function = known or ir.Function(builder.module, ir.FunctionType(I32, [I32, kind.as_pointer()]), name)
        builder.call(function, [I32(MONOTONIC), place])
        time = builder.load(place)
        seconds, rest = builder.extract_value(time, 0), builder.extract_value(time, 1)
        return builder.add(builder.mul(seconds, I64(1_000_000_000)), rest)

    return types.int64(), codegen


@jit
def run_walk(a):  # type: ignore[no-untyped-def]
    """Do the calls of the array that `bind_walk` makes."""
    calls, steps = a[0], a[1]
    for step in range(steps):
        a[HEADER + step] = 0
    before = _now()
    for call in range(calls):
        at = HEADER + steps + CALL * call
        handoff.call(a[at + 1], a[at + 2], a[at + 3])
        after = _now()
        a[HEADER + a[at]] += after - before
        before = after


def bind_walk(calls: Sequence[tuple[int, Bound]], steps: int) -> tuple[Bound, Callable[[], list[int]]]:
    """One call for all of them, each with the number of its step, and another that tells the nanoseconds of each of the
    ``steps`` in the last walk. Raises KernelError for a call that is not a compiled kernel's."""
    numbers = [len(calls), steps, *[0] * steps]
    ready(run_walk, SIGNATURE)
    for step, call in calls:
        found = handoff.compiled(call)
        if found is None or not found[0]:
            raise KernelError(f"a walk consists of compiled kernels; {call!r} of its step {step} is none")
        numbers += [step, *found]
    walk = bind(run_walk, numbers, *(call for _, call in calls))
    [kept] = walk.args  # type: ignore[attr-defined]
    return walk, lambda: [int(time) for time in kept[HEADER : HEADER + steps]]
