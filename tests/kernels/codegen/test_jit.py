"""The cache of compiled kernels: shared by processes, keyed by content, and never in the way."""

from __future__ import annotations

import hashlib
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fogconv.errors import KernelError
from fogconv.kernels.codegen.isa import AVX2, host_isa
from fogconv.kernels.codegen.jit import jit
from tests.strangers import STRANGER

PROGRAM = """
import sys, warnings
from numba import types
from numba.extending import intrinsic
from fogconv.kernels.codegen.jit import jit
def make(n):
    @intrinsic
    def plus(typing, a):
        def code(context, builder, signature, args):
            return builder.add(args[0], args[0].type(n))
        return types.int64(types.int64), code
    @jit
    def inner(a):
        return plus(a)
    @jit
    def outer(a):
        return 10 * inner(a)
    return outer
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for n in map(int, sys.argv[1:]):
        function = make(n)
        function.compile("int64(int64)")
        print(n, function(1), sum(function.stats.cache_hits.values()))
print("warnings", len([w for w in caught if w.category is RuntimeWarning]))
"""


def run(folder: Path | str, *numbers: int, **environment: str) -> str:
    env = {**os.environ, "FOGCONV_CACHE_DIR": str(folder), **environment}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *map(str, numbers)], env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_closures_over_an_intrinsic_are_found_again_and_never_mistaken(tmp_path: Path) -> None:
    assert run(tmp_path, 1, 2) == "1 20 0\n2 30 0\nwarnings 0\n"
    assert run(tmp_path, 2, 3, 1) == "2 30 1\n3 40 0\n1 20 1\nwarnings 0\n"


def test_a_damaged_file_is_replaced(tmp_path: Path) -> None:
    run(tmp_path, 1)
    for file in tmp_path.iterdir():
        file.write_bytes(file.read_bytes()[:-7])
    assert run(tmp_path, 1) == "1 20 0\nwarnings 0\n"
    assert run(tmp_path, 1) == "1 20 1\nwarnings 0\n"


def test_a_file_that_was_damaged_before_it_was_sealed_is_compiled_anew(tmp_path: Path) -> None:
    run(tmp_path, 1)
    for n, file in enumerate(sorted(tmp_path.iterdir())):
        payload = (b"no pickle", b"\x80\x05N.")[n % 2]
        file.write_bytes(hashlib.sha256(payload).digest() + payload)
    assert run(tmp_path, 1).startswith("1 20 0\n")
    assert run(tmp_path, 1) == "1 20 1\nwarnings 0\n"


def sealed(payload: bytes) -> bytes:
    return hashlib.sha256(payload).digest() + payload


def _missing_name() -> bytes:
    """A pickle that names what this numba does not have."""
    return b"cnumba.core.compiler\nGoneInThisVersion\n."


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "shorter than its seal": lambda content: content[:20],
    "cut short": lambda content: content[: len(content) // 2],
    "longer": lambda content: content + b"more",
    "a bit at its begin": lambda content: content[:40] + bytes([content[40] ^ 1]) + content[41:],
    "a bit at its end": lambda content: content[:-9] + bytes([content[-9] ^ 128]) + content[-8:],
    "a bit of its seal": lambda content: bytes([content[0] ^ 16]) + content[1:],
    "sealed, empty": lambda content: sealed(b""),
    "sealed, cut short": lambda content: sealed(content[32 : len(content) // 2]),
    "sealed, cut by one byte": lambda content: sealed(content[32:-1]),
    "sealed, without its begin": lambda content: sealed(content[40:]),
    "sealed, too few fields": lambda content: sealed(pickle.dumps(pickle.loads(content[32:])[:5])),
    "sealed, too many fields": lambda content: sealed(pickle.dumps((None,) * 20)),
    "sealed, of another numba": lambda content: sealed(_missing_name()),
}


def test_whatever_is_wrong_with_a_file_it_is_compiled_anew(tmp_path: Path) -> None:
    numbers = range(1, len(DAMAGES) + 1)
    run(tmp_path, *numbers)
    spoilt = {}
    # Every function has a file of its own; those that call another one hold it as well.
    files = sorted(file for file in tmp_path.iterdir() if file.name.startswith("make.outer-"))
    for file, damage in zip(files, DAMAGES.values(), strict=True):
        spoilt[file] = damage(file.read_bytes())
        file.write_bytes(spoilt[file])
    *lines, warned = run(tmp_path, *numbers).splitlines()
    assert lines == [f"{n} {10 * (n + 1)} 0" for n in numbers]
    assert warned == f"warnings {sum(name.startswith('sealed') for name in DAMAGES)}"
    assert all(file.read_bytes() != content for file, content in spoilt.items()), "each is replaced"
    *lines, warned = run(tmp_path, *numbers).splitlines()
    assert lines == [f"{n} {10 * (n + 1)} 1" for n in numbers] and warned == "warnings 0"


def test_a_file_that_another_process_removes_meanwhile_is_no_reason_to_warn(tmp_path: Path) -> None:
    """Two processes may remove the same stale file; one of them finds it gone."""
    (tmp_path / "writing-gone").symlink_to("nowhere")
    assert run(tmp_path, 1) == "1 20 0\nwarnings 0\n"


FEW_BYTES = 4096 * 3


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
@pytest.mark.parametrize("size", [4096, FEW_BYTES])
def test_a_full_disk_is_one_warning_and_everything_runs(tmp_path: Path, size: int) -> None:
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size},mode=700", "tmpfs", str(tmp_path)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("no tmpfs can be mounted here")
    try:
        if size == 4096:
            (tmp_path / "filler").write_bytes(bytes(size))
        assert run(tmp_path, 1, 2, 3) == "1 20 0\n2 30 0\n3 40 0\nwarnings 1\n"
        assert not list(tmp_path.glob("writing-*")), "nothing half written stays"
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


class Burglar:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.marker,)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize("what", ["file", "folder", "parent", "link", "mode", "folder mode"])
@pytest.mark.parametrize("variable", ["FOGCONV_CACHE_DIR", "XDG_CACHE_HOME"])
def test_nothing_runs_that_others_could_have_written(tmp_path: Path, what: str, variable: str) -> None:
    parent, marker = tmp_path / "parent", tmp_path / "marker"
    folder = parent / "cache" / "fogconv"
    folder.mkdir(parents=True)
    named = folder if variable == "FOGCONV_CACHE_DIR" else folder.parent
    (tmp_path / "link").symlink_to(named)
    environment = {"FOGCONV_CACHE_DIR": "", variable: str(tmp_path / "link" if what == "link" else named)}
    assert run(folder, 1, **environment) == "1 20 0\nwarnings 0\n"
    payload = pickle.dumps(Burglar(marker))
    for file in folder.iterdir():
        file.write_bytes(hashlib.sha256(payload).digest() + payload)
        if what == "file":
            os.chown(file, STRANGER, STRANGER)
        if what == "mode":
            file.chmod(0o666)
    if what in ("folder", "parent"):
        os.chown(folder if what == "folder" else parent, STRANGER, STRANGER)
    if what == "link":
        os.chown(tmp_path / "link", STRANGER, STRANGER, follow_symlinks=False)
    if what == "folder mode":
        folder.chmod(0o777)
    output = run(folder, 1, **environment)
    assert output.startswith("1 20 0\n")
    assert not output.endswith("warnings 0\n")
    assert not marker.exists()


def test_processes_that_compile_at_once_do_not_disturb_each_other(tmp_path: Path) -> None:
    env = {**os.environ, "FOGCONV_CACHE_DIR": str(tmp_path)}
    orders = [("1", "2", "3"), ("3", "2", "1"), ("2", "1", "3"), ("2", "3", "1")] * 2
    running = [
        subprocess.Popen([sys.executable, "-c", PROGRAM, *order], env=env, stdout=subprocess.PIPE, text=True)
        for order in orders
    ]
    for order, process in zip(orders, running, strict=True):
        *lines, warned = process.communicate()[0].splitlines()
        assert process.returncode == 0
        assert [line.rsplit(" ", 1)[0] for line in lines] == [f"{n} {10 * (int(n) + 1)}" for n in order]
        assert warned == "warnings 0"
    contents = [file.read_bytes() for file in tmp_path.glob("*.nbc")]
    assert contents and all(hashlib.sha256(content[32:]).digest() == content[:32] for content in contents)
    assert run(tmp_path, 3, 2, 1) == "3 40 1\n2 30 1\n1 20 1\nwarnings 0\n"
    assert not list(tmp_path.glob("writing-*"))


def test_without_a_writable_folder_everything_runs_after_one_warning(tmp_path: Path) -> None:
    nowhere = "/proc/fogconv"
    assert run(nowhere, 1, 2, TMPDIR=str(tmp_path)).endswith("warnings 1\n")
    assert list(tmp_path.glob("fogconv-*/*.nbc")), "the temporary folder takes its place"
    assert run("off", 1) == "1 20 0\nwarnings 0\n"


def test_a_temporary_folder_that_others_can_write_is_not_trusted(tmp_path: Path) -> None:
    trap = tmp_path / f"fogconv-{os.getuid()}"
    trap.mkdir()
    trap.chmod(0o777)
    assert run("/proc/fogconv", 1, TMPDIR=str(tmp_path)) == "1 20 0\nwarnings 1\n"
    assert not list(trap.iterdir())


def test_a_closure_over_something_without_a_name_is_refused() -> None:
    strange = object()

    def function() -> bool:
        return strange is None

    with pytest.raises(KernelError, match="close over"):
        jit(function)


def test_the_instruction_set_can_be_overridden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOGCONV_ISA", "avx2")
    assert host_isa() == AVX2
    monkeypatch.setenv("FOGCONV_ISA", "mmx")
    with pytest.raises(KernelError, match="mmx"):
        host_isa()
