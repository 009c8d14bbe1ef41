"""Compiled functions: numba.njit without the GIL, with a cache on disk that many workers and versions can share.

Numba's own cache misses what we need: it never hits for closures over an intrinsic, does not notice when the source of an
intrinsic changes, lets two processes that compile at once write the same file, and raises where package and home are
read-only. Here a compiled function is one file, named by a hash over everything that decided its code: the sources of
its module and of the kernel modules imported by that one, the values it closes over, its signature, the instruction set,
the CPU, and the versions of numba, llvmlite, numpy and Python. A file never changes once it has its name, so nothing needs
a lock. What is loaded runs, so a file counts only if nobody but this user and root could have written it.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import os
import pickle
import platform
import sys
import tempfile
import threading
import time
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
from numba.core.runtime.nrt import rtsys
from numba.core.serialize import dumps

from fogconv.errors import KernelError
from fogconv.kernels.codegen.isa import host_isa
from fogconv.storage.trusted import distrust, read_own, warn_once, write_own

PACKAGE = __name__.rpartition(".")[0]
PLAIN = (bool, int, float, str, np.dtype, np.generic, numba.types.Type)

UNUSED_S = 60 * 24 * 3600.0
"""A compiled function that nobody loaded for so long is removed when its successor is stored."""


def jit(function: Callable[..., Any]) -> Any:
    """Decorate a function to be compiled on first call, or before by ``function.compile(signature)``.

    No GIL while it runs, no bounds checks, numpy's rules for division by zero, and no reordering of floating-point
    arithmetic. Closures are cached too, if they close over numbers, strings, types, other compiled functions and
    intrinsics, alone or in tuples and frozen dataclasses; KernelError for anything else.
    """
    identity = _identity(function)
    name = function.__qualname__.replace(".<locals>", "")
    # Symbols are named after the function. A closure's name must say which one it is, or two that were compiled by two
    # processes could meet in a third under one symbol.
    function.__qualname__ = f"{name}.{identity[:16]}"
    dispatcher: Any = numba.njit(nogil=True, error_model="numpy", boundscheck=False)(function)
    dispatcher._cache = _FileCache(name, identity)
    return dispatcher


class _FileCache(NullCache):
    """One file per compiled signature; the interface is that of numba's dispatcher."""

    def __init__(self, name: str, identity: str) -> None:
        self._name, self._identity = name, identity

    @property
    def cache_path(self) -> str | None:
        folder = cache_folder()
        return None if folder is None else str(folder)

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        path = self._path(sig, target_context.codegen())
        if path is None:
            return None
        try:
            content = read_own(path)
        except FileNotFoundError:
            return None
        except OSError as error:
            warn_once(f"{path} is not used, and compiled anew ({error.strerror})")
            return None
        digest, payload = content[:32], content[32:]
        if hashlib.sha256(payload).digest() != digest:
            return None  # cut short by a full disk; the new one will replace it
        with contextlib.suppress(OSError):  # a cache shared read-only works all the same
            os.utime(path)
        # Numba's own cache refreshes the context here, which imports all that it can compile (and scipy): a quarter of a
        # second that loading does not need. Compiling does so itself.
        rtsys.initialize(target_context)
        try:
            return CompileResult._rebuild(target_context, *pickle.loads(payload))  # type: ignore[no-untyped-call]
        except Exception as error:  # pickle, numba and LLVM raise what they like
            warn_once(f"{path} is damaged, and compiled anew ({type(error).__name__})")
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        path = self._path(sig, data.codegen)
        if path is None or data.lifted or data.library.has_dynamic_globals:
            return
        payload = dumps(data._reduce())  # type: ignore[no-untyped-call]
        try:
            write_own(path, hashlib.sha256(payload).digest() + payload)
            self._prune(path)
        except OSError as error:
            why = error.strerror or error  # without the file's name, which is another each time
            warn_once(f"compiled kernels can't be stored in {path.parent} ({why}); they will be compiled again next time")

    def _path(self, sig: Any, codegen: Any) -> Path | None:
        folder = cache_folder()
        if folder is None:
            return None
        key = f"{self._identity} {sig} {codegen.magic_tuple()} {_versions()}"
        return folder / f"{self._name}-{hashlib.sha256(key.encode()).hexdigest()[:40]}.nbc"

    def _prune(self, kept: Path) -> None:
        stale = time.time() - UNUSED_S
        for path in (*kept.parent.glob(f"{self._name}-*.nbc"), *kept.parent.glob("writing-*")):
            with contextlib.suppress(FileNotFoundError):  # another process was faster
                if path != kept and path.stat().st_mtime < stale:
                    path.unlink()


def cache_folder() -> Path | None:
    """Where compiled functions and tuned choices are kept, or None where nothing can be written or trusted.

    The first that can be written of: $FOGCONV_CACHE_DIR, or else $XDG_CACHE_HOME/fogconv or ~/.cache/fogconv; a folder
    of this user in the system's temporary folder (with one warning). None, with one warning, where others own it or can
    write to it. FOGCONV_CACHE_DIR=off: None.
    """
    return _cache_folder(os.environ.get("FOGCONV_CACHE_DIR"), os.environ.get("XDG_CACHE_HOME"), os.environ.get("HOME"))


@cache
def _cache_folder(override: str | None, xdg: str | None, home: str | None) -> Path | None:
    if override == "off":
        return None
    if override:
        wanted = Path(override)
    elif xdg:
        wanted = Path(xdg) / "fogconv"
    else:
        wanted = Path(home or "/") / ".cache" / "fogconv"
    if _usable(wanted):
        return _trusted(wanted)
    owner = os.geteuid()
    substitute = Path(tempfile.gettempdir()) / f"fogconv-{owner}"
    if not _usable(substitute):
        warn_once(f"neither {wanted} nor {substitute} can be written; kernels are compiled anew by every process")
        return None
    if _trusted(substitute) is None:
        return None
    warn_once(f"{wanted} can't be written; compiled kernels are kept in {substitute} instead (set FOGCONV_CACHE_DIR)")
    return substitute


def _trusted(folder: Path) -> Path | None:
    """What lies there is run, whoever put it there: only a folder that is ours and closed to others may be loaded from."""
    complaint = distrust(folder)
    if complaint is not None:
        warn_once(f"{complaint}: no compiled kernels are taken from there, and every process compiles its own")
    return folder if complaint is None else None


def _usable(folder: Path) -> bool:
    try:
        if distrust(folder) is None:  # what can't be trusted is left as it is
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            with tempfile.TemporaryFile(dir=folder):
                pass
    except OSError:
        return False
    return True


@cache
def _versions() -> str:
    versions = (numba.__version__, llvmlite.__version__, np.__version__, sys.version, platform.machine())
    return " ".join((*versions, host_isa().name))


def _identity(function: Callable[..., Any]) -> str:
    return hashlib.sha256("\n".join(_facts(function)).encode()).hexdigest()


def _facts(value: object) -> Iterator[str]:
    """Everything that a compiled function's code depends on, as text."""
    if isinstance(value, types.FunctionType):
        yield f"{value.__module__}.{value.__qualname__} {_module_hash(value.__module__)}"
        for name, cell in zip(value.__code__.co_freevars, value.__closure__ or (), strict=True):
            yield name
            yield from _facts(cell.cell_contents)
    elif isinstance(value, Dispatcher):
        yield from _facts(value.py_func)
    elif hasattr(value, "_defn"):  # an intrinsic
        yield from _facts(value._defn)
    elif isinstance(value, tuple):
        yield f"tuple of {len(value)}"
        for item in value:
            yield from _facts(item)
    elif value is None or isinstance(value, PLAIN) or _frozen(value):
        yield repr(value)
    else:
        raise KernelError(f"a compiled function can't close over {value!r}: its cache could not tell two such values apart")


def _frozen(value: object) -> bool:
    params = getattr(value, "__dataclass_params__", None)
    return params is not None and bool(params.frozen)


_parsing = threading.Lock()


def _parsed(source: bytes) -> ast.AST:
    """CPython 3.11's ast.parse counts its recursion per interpreter: two threads at once (the other may be anybody's) raise
    SystemError now and then, and once more does it."""
    with _parsing:
        for _ in range(20):
            with contextlib.suppress(SystemError):
                return ast.parse(source)
        return ast.parse(source)


@cache
def _source(module: str) -> tuple[bytes, tuple[str, ...]]:
    """A module's source, and what of the kernels it imports, or may import: a name can be a module or something in one."""
    file = getattr(sys.modules.get(module), "__file__", None)
    if file is None:
        return b"", ()
    source = Path(file).read_bytes()
    candidates: list[str] = []
    for node in ast.walk(_parsed(source)):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith(PACKAGE):
            candidates += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            candidates += [alias.name for alias in node.names if alias.name.startswith(PACKAGE)]
    return source, tuple(candidates)


@cache
def _module_hash(module: str) -> str:
    """A hash over the source of a module and of all kernel modules that it imports, directly or not."""
    sources: dict[str, bytes] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name not in sources:
            sources[name], candidates = _source(name)
            waiting += [candidate for candidate in candidates if candidate in sys.modules]
    digest = hashlib.sha256()
    for name in sorted(sources):
        digest.update(name.encode() + b"\0" + hashlib.sha256(sources[name]).digest())
    return digest.hexdigest()
