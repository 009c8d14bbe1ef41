"""The epilogue: an activation applied to a tile that a convolution has just stored, while it is still in the first cache.

Each activation is a compiled function of its own, which the drivers call by its address: they are the same for all of
them, and only those that a program uses are compiled. A switch over all of them in every driver took seconds to compile.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from fogconv.kernels.codegen import vector
from fogconv.kernels.codegen.emit import Builder, Value
from fogconv.kernels.codegen.formulas import activation, applied, clamp, lanes
from fogconv.kernels.codegen.jit import jit
from fogconv.kernels.codegen.native.calls import call_address, function_address

SIGNATURE = types.void(*[types.int64] * 5)
"""epilogue(address, bytes from row to row, rows, columns, parameters)."""


@dataclass(frozen=True, slots=True)
class Epilogue:
    """``address`` is the function's, 0 where there is nothing to do; ``lanes`` must live as long as it is called."""

    address: int = 0
    lanes: NDArray[np.float32] = field(default_factory=lambda: lanes(()))

    @staticmethod
    def of(text: str | None) -> Epilogue:
        """That of a convolution, whose tiles apply clamps themselves. Raises KernelError for an unknown activation."""
        chosen = activation(text)
        if chosen is None or clamp(text) is not None:
            return Epilogue()
        return Epilogue(_address(chosen.name), lanes(chosen.parameters))

    @property
    def numbers(self) -> tuple[int, int]:
        """What a driver gets: the function and the parameters."""
        return self.address, int(self.lanes.__array_interface__["data"][0])


@cache
def _address(name: str) -> int:
    return function_address(_in_place(name), SIGNATURE)


def _in_place(name: str) -> Any:
    apply = applied(name)

    @jit
    def epilogue(address, row_bytes, rows, columns, parameters):  # type: ignore[no-untyped-def]
        p, q, r = vector.load(parameters), vector.load(parameters + 64), vector.load(parameters + 128)
        for row in range(rows):
            start = address + row * row_bytes
            for at in range(start, start + columns * 64, 64):
                value = vector.load(at)
                vector.store(at, apply(value, value, p, q, r))

    return epilogue


def _call_epilogue(typing: Any, function: Any, address: Any, row_bytes: Any, rows: Any, columns: Any, lanes: Any) -> Any:
    """Call an epilogue by its address."""
    signature = types.void(*[types.int64] * 6)

    def code(context: Any, builder: Builder, signature: Any, args: Sequence[Value]) -> Value:
        call_address(context, builder, SIGNATURE, args)
        return context.get_dummy_value()

    return signature, code


call_epilogue: Any = intrinsic(_call_epilogue)
