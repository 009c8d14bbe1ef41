"""Calls of compiled functions by their addresses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from numba import types
from numba.extending import intrinsic

from fogconv.kernels.codegen.emit import Builder, Value
from fogconv.kernels.codegen.jit import ready
from fogconv.kernels.codegen.native.functions import call_native


def function_address(dispatcher: Any, signature: Any) -> int:
    """Where the code of a compiled function starts (numba's own calling convention); 0 where it is not `ready`."""
    if not ready(dispatcher, signature):
        return 0
    result = dispatcher.overloads[signature.args]
    return int(result.library.get_pointer_to_function(result.fndesc.llvm_func_name))


def _call_tile(
    typing: Any, address: Any, fields: Any, x: Any, weights: Any, bias: Any, out: Any, residual: Any, ahead: Any
) -> Any:
    """Call a micro-kernel by its address."""
    signature = types.void(*[types.int64] * 8)

    def code(context: Any, builder: Builder, signature: Any, args: Sequence[Value]) -> Value:
        call_native(builder, args[0], args[1:])
        return context.get_dummy_value()

    return signature, code


call_tile: Any = intrinsic(_call_tile)


def call_address(context: Any, builder: Builder, signature: Any, args: Sequence[Value]) -> None:
    """Call the function at the address args[0], which was compiled for ``signature``, with the other args."""
    convention = context.call_conv
    function_type = convention.get_function_type(types.none, signature.args)
    callee = builder.inttoptr(args[0], function_type.as_pointer())
    convention.call_function(builder, callee, types.none, signature.args, args[1:])
