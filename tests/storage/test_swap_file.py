"""Swapped weights: their content comes back, their memory is given back, and nothing of them stays on the disk."""

from __future__ import annotations

import errno
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from fogconv.errors import SwapError
from fogconv.storage import swap_file
from fogconv.storage.swap_file import SwapFile, SwapFolder

MEGABYTES = 24


def resident_bytes() -> int:
    """Of this process's mapped files."""
    found = re.search(r"RssFile:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return 1024 * int(found[1])


def content(megabytes: int = MEGABYTES) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((megabytes, 250_000), np.float32)


def test_the_content_comes_back_as_it_was(tmp_path: Path) -> None:
    wanted = content()
    file = SwapFolder(tmp_path).store(wanted)
    for _ in range(2):
        file.fetch()
        np.testing.assert_array_equal(file.array, wanted)
        file.drop()
    assert not file.array.flags.writeable


def test_memory_is_taken_between_fetch_and_drop_only(tmp_path: Path) -> None:
    file = SwapFolder(tmp_path).store(content())
    before = resident_bytes()
    file.fetch()
    float(file.array.sum())
    assert resident_bytes() - before > 0.9 * file.nbytes, "it is mapped, and all of it was read"
    file.drop()
    assert resident_bytes() - before < 0.1 * file.nbytes


def test_nothing_is_left_under_a_name_and_only_this_user_can_read_it(tmp_path: Path) -> None:
    file = SwapFolder(tmp_path).store(content(1))
    assert not list(tmp_path.iterdir())
    assert stat.S_IMODE(os.fstat(file._handle).st_mode) == 0o600
    handle = file._handle
    del file
    with pytest.raises(OSError):
        os.fstat(handle)


def test_nothing_is_left_by_a_process_that_is_killed(tmp_path: Path) -> None:
    code = (
        "import numpy, pathlib, sys, time\n"
        "from fogconv.storage.swap_file import SwapFolder\n"
        "kept = SwapFolder(pathlib.Path(sys.argv[1])).store(numpy.zeros(1 << 20, numpy.float32))\n"
        "print('here', flush=True)\n"
        "time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "here\n"
    os.kill(process.pid, signal.SIGKILL)
    process.wait(60)
    process.stdout.close()
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = SwapFolder(tmp_path)
    with pytest.raises(SwapError, match=r"needs \d+ MB on the disk of .* can be taken: make room"):
        folder.require(1 << 60)

    def full(handle: int, nbytes: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(swap_file, "_allocate", full)
    with pytest.raises(SwapError, match="No space left on device; make room"):
        folder.store(content(1))
    assert not list(tmp_path.iterdir())


def test_a_part_of_the_disk_stays_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = shutil.disk_usage("/")._replace(total=1_000_000_000, free=60_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: disk)
    SwapFolder(tmp_path).require(10_000_000)
    with pytest.raises(SwapError, match="10 MB can be taken"):
        SwapFolder(tmp_path).require(10_000_001)


def test_the_default_folder_is_the_cache_and_may_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOGCONV_CACHE_DIR", "off")
    with pytest.raises(SwapError, match="--swap-folder"):
        SwapFolder().store(content(1))


def test_a_pace_limits_the_rate(tmp_path: Path) -> None:
    file = SwapFile(tmp_path, content(4), bytes_per_s=40e6)
    begin = time.perf_counter()
    file.fetch()
    assert time.perf_counter() - begin >= 0.99 * file.nbytes / 40e6, "it never reads faster"
    assert SwapFolder(tmp_path, 40e6).bytes_per_s(4_000_000, lambda: None) <= 40.4e6


def test_a_file_that_ends_early_is_an_error(tmp_path: Path) -> None:
    file = SwapFolder(tmp_path).store(content(4))
    os.ftruncate(file._handle, 1_000_000)
    with pytest.raises(OSError, match="ends too early"):
        file.fetch()
