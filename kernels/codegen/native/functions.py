"""Native functions: bodies that are LLVM IR from the start, such as the micro-kernels, compiled without numba.

Numba would make wrappers that nothing calls, and optimise each of them several times. Here a function of 64-bit integers
is one module, and one object file in the cache. LLVM's lightest pipeline gives the same machine code for them as its
heaviest.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba.core.registry import cpu_target

from fogconv.kernels.codegen.emit import I64, Builder, Value
from fogconv.kernels.codegen.jit import facts_of, versions
from fogconv.storage import code_files
from fogconv.storage.cache_folder import cache_folder

Emit = Callable[..., None]
"""emit(builder, *constants, *addresses): a function's body; it may end in any block."""

LIGHT = 1
"""LLVM's level of effort."""


def native_function(emit: Emit, *constants: object, arguments: int) -> int:
    """The machine address of a function of so many 64-bit integers, which returns nothing; compiled, or loaded from the
    cache. ``constants`` decide its code, as all sources of its module and of what that imports do: numbers, texts, frozen
    dataclasses of such. 0 where compiling it is left to another process (see `code_files.CHOICE`). Raises KernelError for
    other constants."""
    facts = (*facts_of((emit, *constants)), *_machine().target, versions())
    name = emit.__module__.rpartition(".")[2]
    symbol = f"{name}-{hashlib.sha256(chr(10).join(facts).encode()).hexdigest()[:40]}"
    return _machine().address(symbol, lambda builder, *addresses: emit(builder, *constants, *addresses), arguments)


def call_native(builder: Builder, address: Value, arguments: Value) -> None:
    """Emit a call of a native function by its address."""
    signature = ir.FunctionType(ir.VoidType(), [I64] * len(arguments))
    builder.call(builder.inttoptr(address, signature.as_pointer()), arguments)


class _Machine:
    """This computer as a target of LLVM, the same as numba's, and the native functions in this process."""

    def __init__(self) -> None:
        self.target: tuple[str, str, str] = cpu_target.target_context.codegen().magic_tuple()
        triple, cpu, features = self.target
        # As numba asks for it: code that a JIT puts anywhere in memory.
        reloc = "static" if triple.startswith("x86") else "default"
        self._compiler: Any = llvm.Target.from_triple(triple).create_target_machine(
            cpu=cpu, features=features, opt=3, reloc=reloc, codemodel="jitdefault"
        )
        self._engine: Any = llvm.create_mcjit_compiler(llvm.parse_assembly(f'target triple = "{triple}"'), self._compiler)
        self._addresses: dict[str, int] = {}
        self._lock = threading.Lock()

    def address(self, symbol: str, emit: Emit, arguments: int) -> int:
        with self._lock:
            if symbol not in self._addresses:
                if not code_files.chosen(_file(symbol)):
                    return 0
                code = self._code(symbol, emit, arguments)
                self._engine.add_object_file(llvm.ObjectFileRef.from_data(code))
                self._engine.finalize_object()
                self._addresses[symbol] = int(self._engine.get_function_address(symbol))
            return self._addresses[symbol]

    def _code(self, symbol: str, emit: Emit, arguments: int) -> bytes:
        """An object file, from the cache where it is known."""
        path = _file(symbol)
        if path is None:
            return self._compiled(symbol, emit, arguments)
        known = code_files.opened(path)
        if known is None:
            known = self._compiled(symbol, emit, arguments)
            code_files.kept(path, known)
        return known

    def _compiled(self, symbol: str, emit: Emit, arguments: int) -> bytes:
        module = ir.Module()
        module.triple = self.target[0]
        function = ir.Function(module, ir.FunctionType(ir.VoidType(), [I64] * arguments), symbol)
        function.attributes.add("nounwind")
        builder = ir.IRBuilder(function.append_basic_block())
        emit(builder, *function.args)
        builder.ret_void()
        parsed = llvm.parse_assembly(str(module))
        parsed.verify()
        tuning = llvm.create_pipeline_tuning_options(speed_level=LIGHT)
        passes: Any = llvm.create_pass_builder(self._compiler, tuning)
        passes.getModulePassManager().run(parsed, passes)
        return bytes(self._compiler.emit_object(parsed))


def _file(symbol: str) -> Path | None:
    folder = cache_folder()
    return None if folder is None else folder / f"{symbol}.obj"


_FIRST = threading.Lock()


def _machine() -> _Machine:
    """This process's, whichever threads ask first: a second one would replace it, and free code that is in use."""
    with _FIRST:
        return _only_machine()


@cache
def _only_machine() -> _Machine:
    return _Machine()
