"""Numbers in memory that several threads read and write: by address, int64, in one order for all threads."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import types

from fogconv.kernels.codegen import activation
from fogconv.kernels.codegen.emit import I64, Builder, cpu_family
from fogconv.kernels.codegen.vector import intrinsic


@intrinsic
def read(typingctx: Any, address: Any) -> Any:
    def codegen(context: Any, builder: Builder, signature: Any, args: Any) -> Any:
        return builder.load_atomic(builder.inttoptr(args[0], I64.as_pointer()), "seq_cst", 8)

    return types.int64(types.int64), codegen


@intrinsic
def write(typingctx: Any, address: Any, value: Any) -> Any:
    def codegen(context: Any, builder: Builder, signature: Any, args: Any) -> Any:
        builder.store_atomic(args[1], builder.inttoptr(args[0], I64.as_pointer()), "seq_cst", 8)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), codegen


@intrinsic
def exchange(typingctx: Any, address: Any, value: Any) -> Any:
    def codegen(context: Any, builder: Builder, signature: Any, args: Any) -> Any:
        return builder.atomic_rmw("xchg", builder.inttoptr(args[0], I64.as_pointer()), args[1], "seq_cst")

    return types.int64(types.int64, types.int64), codegen


@intrinsic
def take(typingctx: Any, address: Any, number: Any) -> Any:
    """Whether a number was at an address; a 0 is there afterwards."""

    def codegen(context: Any, builder: Builder, signature: Any, args: Any) -> Any:
        pointer = builder.inttoptr(args[0], I64.as_pointer())
        found = builder.cmpxchg(pointer, args[1], I64(0), "seq_cst", "seq_cst")
        return builder.extract_value(found, 1)

    return types.boolean(types.int64, types.int64), codegen


@intrinsic
def pause(typingctx: Any) -> Any:
    """Emit the CPU's spin-wait hint, where it has one."""

    def codegen(context: Any, builder: Builder, signature: Any, args: Any) -> Any:
        match cpu_family(builder):  # not the instruction set: $FOGCONV_ISA may ask for another CPU's tiles
            case "x86":
                activation.call_intrinsic(builder, "llvm.x86.sse2.pause", ir.VoidType())
            case "aarch64":
                activation.call_intrinsic(builder, "llvm.aarch64.hint", ir.VoidType(), ir.Constant(ir.IntType(32), 1))
        return context.get_dummy_value()

    return types.void(), codegen
