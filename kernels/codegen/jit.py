"""Compiled functions: numba.njit without the GIL, with a cache on disk that many workers and versions can share.

Numba's own cache is not enough: it never hits for closures over an intrinsic, does not notice when the source of an
intrinsic changes, lets two processes that compile at once write the same file, and raises where package and home are
read-only. Here a compiled function is one file, named by a hash of everything that its code depends on: the sources of
its module and of the kernels and shapes that it imports, the values it closes over, its signature, the instruction set,
the CPU, and the versions of numba, llvmlite, numpy and Python. A file never changes once it has its name, so no lock is
needed. A loaded file is executed, so it is used only if no user except this one and root could have written it.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import platform
import re
import sys
import types
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import llvmlite
import numba
import numpy as np
from numba.core.caching import NullCache
from numba.core.compiler import CompileResult
from numba.core.dispatcher import Dispatcher
from numba.core.registry import cpu_target
from numba.core.runtime.nrt import rtsys
from numba.core.serialize import dumps

from fogconv.errors import KernelError
from fogconv.kernels.codegen.isa import host_isa
from fogconv.storage import code_files
from fogconv.storage.cache_folder import cache_folder
from fogconv.storage.trusted import warn_once

ROOT = __name__.partition(".")[0]
FOLLOWED = (f"{ROOT}.kernels", f"{ROOT}.ir")
"""What is imported of these may be part of compiled code: intrinsics, and numbers such as the width of a block."""
_IMPORT = re.compile(r"^[ \t]*(?:import[ \t]+([\w.]+)|from[ \t]+([\w.]+)[ \t]+import[ \t]+(\([^)]*\)|[^\n]*))", re.MULTILINE)
"""Imports as the formatter leaves them. A syntax tree would take a tenth of a second of each start."""
_NAME = re.compile(r"\w+")
_njit: Any = numba.njit  # its annotations lack an option
PLAIN = (bool, int, float, str, np.dtype, np.generic, numba.types.Type)


def jit(function: Callable[..., Any]) -> Any:
    """Decorate a function to be compiled on first call, or before by ``function.compile(signature)``.

    No GIL while it runs, no bounds checks, numpy's rules for division by zero, and no reordering of floating-point
    arithmetic. Closures are cached too, if they close over numbers, strings, types, other compiled functions and
    intrinsics, alone or in tuples and frozen dataclasses. Raises KernelError for anything else.
    """
    identity = _identity(function)
    name = function.__qualname__.replace(".<locals>", "")
    # Symbols are named after the function. A closure's name must be unique, or two closures compiled by two processes
    # could have the same symbol in a third one.
    function.__qualname__ = f"{name}.{identity[:16]}"
    # No wrapper for C: nothing calls one, and it would be compiled as the function itself is.
    dispatcher = _njit(nogil=True, error_model="numpy", boundscheck=False, no_cfunc_wrapper=True)(function)
    dispatcher._cache = _FileCache(name, identity)
    return dispatcher


def ready(function: Any, signature: Any) -> bool:
    """Compile a function for a signature, or load it. False where that is left to another process (see
    `fogconv.storage.code_files.CHOICE`): then it must not be called."""
    if not code_files.chosen(function._cache.path(signature, cpu_target.target_context.codegen())):
        return False
    function.compile(signature)
    return True


class _FileCache(NullCache):
    """One file per compiled signature; the interface is that of numba's dispatcher."""

    def __init__(self, name: str, identity: str) -> None:
        self._name, self._identity = name, identity

    @property
    def cache_path(self) -> str | None:
        folder = cache_folder()
        return None if folder is None else str(folder)

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        path = self.path(sig, target_context.codegen())
        if path is None:
            return None
        payload = code_files.opened(path)
        if payload is None:
            return None
        # Numba's own cache refreshes the context here, which imports everything that it can compile (and scipy): a
        # quarter of a second that loading does not need. Compiling refreshes it itself.
        rtsys.initialize(target_context)
        try:
            return CompileResult._rebuild(target_context, *pickle.loads(payload))  # type: ignore[no-untyped-call]
        except Exception as error:  # pickle, numba and LLVM raise errors of any type
            warn_once(f"{path} is damaged; its function is compiled again ({type(error).__name__})")
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        path = self.path(sig, data.codegen)
        if path is None or data.lifted or data.library.has_dynamic_globals:
            return
        code_files.kept(path, dumps(data._reduce()))  # type: ignore[no-untyped-call]

    def path(self, sig: Any, codegen: Any) -> Path | None:
        folder = cache_folder()
        if folder is None:
            return None
        key = f"{self._identity} {sig} {codegen.magic_tuple()} {versions()}"
        return folder / f"{self._name}-{hashlib.sha256(key.encode()).hexdigest()[:40]}.nbc"


@cache
def versions() -> str:
    """What else compiled code depends on: versions of libraries, the processor's kind, the instruction set."""
    versions = (numba.__version__, llvmlite.__version__, np.__version__, sys.version, platform.machine())
    return " ".join((*versions, host_isa().name))


def _identity(function: Callable[..., Any]) -> str:
    return hashlib.sha256("\n".join(facts_of(function)).encode()).hexdigest()


def facts_of(value: object) -> Iterator[str]:
    """Everything that a compiled function's code depends on, as text."""
    if isinstance(value, types.FunctionType):
        yield f"{value.__module__}.{value.__qualname__} {_module_hash(value.__module__)}"
        for name, cell in zip(value.__code__.co_freevars, value.__closure__ or (), strict=True):
            yield name
            yield from facts_of(cell.cell_contents)
    elif isinstance(value, Dispatcher):
        yield from facts_of(value.py_func)
    elif hasattr(value, "_defn"):  # an intrinsic
        yield from facts_of(value._defn)
    elif isinstance(value, tuple):
        yield f"tuple of {len(value)}"
        for item in value:
            yield from facts_of(item)
    elif value is None or isinstance(value, PLAIN) or _frozen(value):
        yield repr(value)
    else:
        raise KernelError(f"a compiled function can't close over {value!r}: its cache could not tell two such values apart")


def _frozen(value: object) -> bool:
    params = getattr(value, "__dataclass_params__", None)
    return params is not None and bool(params.frozen)


def _state(file: Path) -> tuple[int, ...]:
    """What differs once a file was written again."""
    found = file.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _states() -> dict[str, tuple[int, ...]]:
    """Of all sources of `FOLLOWED`."""
    root = Path(sys.modules[ROOT].__path__[0])
    folders = (root.joinpath(*each.split(".")[1:]) for each in FOLLOWED)
    files = (Path(folder, name) for top in folders for folder, _, names in os.walk(top) for name in names)
    return {str(file): _state(file) for file in files if file.suffix == ".py"}


STATES = _states()
"""The sources' files as this process found them when it began to import what it compiles."""


@cache
def _module_hash(module: str) -> str:
    """A hash over the source of a module and of all that it imports of `FOLLOWED`, directly or not."""
    digest = hashlib.sha256()
    for name, source in sorted(_sources(module).items()):
        digest.update(name.encode() + b"\0" + hashlib.sha256(source).digest())
    return digest.hexdigest()


def _sources(module: str) -> dict[str, bytes]:
    """The sources that decide what is compiled in a module, by module."""
    found: dict[str, bytes] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found[name], imported = _source(name)
            waiting += imported
    return {name: source for name, source in found.items() if source}


@cache
def _source(module: str) -> tuple[bytes, tuple[str, ...]]:
    """A module's source, and what of `FOLLOWED` it may import: a name can be a module or something in one.

    Found by its file, imported yet or not: the order of imports must not decide. Empty for what is no module.
    """
    if module.startswith(FOLLOWED):
        path = Path(sys.modules[ROOT].__path__[0]).joinpath(*module.split(".")[1:])
        file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    else:
        file = Path(getattr(sys.modules.get(module), "__file__", None) or os.devnull)
    try:
        source = file.read_bytes()
        state = _state(file)
    except FileNotFoundError:
        return b"", ()
    if state != STATES.get(str(file), state):
        # An upgrade, or an editor: this process may have imported what the file was before. Its code would be kept as the
        # new file's, and others would run it with other arguments. So no other process finds it. By the file's state, and
        # not by its age, because boards without a battery start with a clock of years ago.
        source += f"# changed under process {os.getpid()}, to {state}\n".encode()
    candidates: list[str] = []
    for match in _IMPORT.finditer(source.decode()):
        name, names = match[1] or match[2], match[3] or ""
        candidates += [name, *(f"{name}.{word}" for word in _NAME.findall(names))]
    return source, tuple(candidate for candidate in candidates if candidate.startswith(FOLLOWED))
