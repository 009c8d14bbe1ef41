"""Giving back the memory of mapped arrays: it is gone from the process, and their values are not."""

from __future__ import annotations

import mmap
import re
from pathlib import Path

import numpy as np
import pytest

from fogconv.storage.mapped_array import give_back

PAGES = 512
COUNT = PAGES * mmap.PAGESIZE // 4


def resident_bytes(path: Path) -> int:
    """Of the file's mapping in this process."""
    _, found = Path("/proc/self/smaps").read_text().split(str(path), 1)
    match = re.search(r"^Rss:\s+(\d+) kB", found, re.MULTILINE)
    assert match is not None
    return int(match[1]) << 10


@pytest.mark.parametrize("first", [0, 5])
@pytest.mark.parametrize("viewed", [False, True], ids=["mapped", "a view of its bytes"])
def test_a_mapped_array_is_out_of_memory_until_it_is_read_again(tmp_path: Path, first: int, viewed: bool) -> None:
    file = tmp_path / "weights"
    values = np.arange(COUNT, dtype=np.float32)
    file.write_bytes(values.tobytes())
    with file.open("rb") as opened:
        whole = np.memmap(opened, np.uint8, "c").view(np.ndarray)
    array = whole.view(np.float32)[first:].reshape(1, -1)
    if viewed:
        array = np.frombuffer(array.view(np.uint8).reshape(-1).data, np.uint8).view(np.float32).reshape(1, -1)
    assert array.sum() == values[first:].sum()
    before = resident_bytes(file)
    give_back(array)
    assert resident_bytes(file) <= before - (PAGES - 2) * mmap.PAGESIZE
    assert np.array_equal(array[0], values[first:])


def test_other_arrays_stay() -> None:
    array = np.arange(COUNT, dtype=np.float32)
    give_back(array)
    give_back(array[:0])
    assert array[-1] == COUNT - 1


def test_what_is_not_contiguous_stays(tmp_path: Path) -> None:
    file = tmp_path / "weights"
    file.write_bytes(bytes(COUNT * 4))
    with file.open("rb") as opened:
        whole = np.memmap(opened, np.uint8, "c").view(np.ndarray).view(np.float32)
    before = resident_bytes(file) if whole.sum() == 0 else 0
    give_back(whole[::2])
    assert resident_bytes(file) == before
