"""Native functions: compiled once, kept as object files, told apart by all that decides their code."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fogconv.kernels.codegen.native import functions

PROGRAM = """
import ctypes, sys, warnings
import llvmlite.binding as llvm
from fogconv.kernels.codegen.emit import I64
from fogconv.kernels.codegen.native import functions

def emit_sum(builder, plus, a, b, to):
    builder.store(builder.add(builder.add(a, b), I64(plus)), builder.inttoptr(to, I64.as_pointer()))

compiled = []
made = functions._Machine._compiled
functions._Machine._compiled = lambda self, *a: compiled.append(1) or made(self, *a)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for plus in map(int, sys.argv[1:]):
        address = functions.native_function(emit_sum, plus, arguments=3)
        assert address == functions.native_function(emit_sum, plus, arguments=3)
        out = ctypes.c_int64()
        ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 3)(address)(1, 2, ctypes.addressof(out))
        print(out.value)
print("compiled", len(compiled), "warnings", len(caught))
"""


def run(folder: Path | str, *numbers: int) -> str:
    environment = {**os.environ, "FOGCONV_CACHE_DIR": str(folder)}
    command = [sys.executable, "-c", PROGRAM, *map(str, numbers)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout


def test_a_native_function_is_compiled_once_and_told_apart_by_its_constants(tmp_path: Path) -> None:
    assert run(tmp_path, 10, 20) == "13\n23\ncompiled 2 warnings 0\n"
    assert run(tmp_path, 20, 30, 10) == "23\n33\n13\ncompiled 1 warnings 0\n"


def test_a_damaged_object_file_is_replaced(tmp_path: Path) -> None:
    run(tmp_path, 10)
    [file] = tmp_path.glob("*.obj")
    file.write_bytes(file.read_bytes()[:-7])
    assert run(tmp_path, 10) == "13\ncompiled 1 warnings 0\n"
    assert run(tmp_path, 10) == "13\ncompiled 0 warnings 0\n"


def test_an_object_file_that_others_can_write_is_not_loaded(tmp_path: Path) -> None:
    run(tmp_path, 10)
    [file] = tmp_path.glob("*.obj")
    file.chmod(0o666)
    assert run(tmp_path, 10) == "13\ncompiled 1 warnings 1\n"
    assert run(tmp_path, 10) == "13\ncompiled 0 warnings 0\n", "it was replaced"


def test_without_a_cache_it_is_compiled_in_each_process() -> None:
    assert run("off", 10, 10) == "13\n13\ncompiled 1 warnings 0\n"


def test_threads_that_come_first_at_once_share_one_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second machine would take the first one's place, and with it goes the code that the first one loaded."""

    class Slow(functions._Machine):
        def __init__(self) -> None:
            super().__init__()
            time.sleep(0.1)

    kept = functions._machine()
    monkeypatch.setattr(functions, "_Machine", Slow)
    functions._only_machine.cache_clear()
    try:
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda _: functions._machine(), range(4)))
        assert len({id(each) for each in found}) == 1
    finally:
        # Code of this process lives in the one that it had: nothing of it may be freed.
        functions._only_machine.cache_clear()
        monkeypatch.setattr(functions, "_Machine", lambda: kept)
        functions._machine()
