"""Arrays in large pages are zeros, lie apart, and leave nothing behind."""

from __future__ import annotations

import gc
import mmap
import re
from itertools import pairwise
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from fogconv.kernels.codegen.tile.fields import LINE
from fogconv.kernels.maps import large_pages as module
from fogconv.kernels.maps.blocked import aligned_zeros
from fogconv.kernels.maps.large_pages import LEAST, PAGE, REGION, LargePages, Region

pytestmark = pytest.mark.skipif(not module.SUPPORTED, reason="large pages are asked for on Linux only")


@pytest.mark.parametrize(("content", "wanted"), [(str(PAGE), True), (str(32 << 20), False), ("?", False), (None, False)])
def test_they_are_asked_for_only_where_they_have_2_mb(
    content: str | None, wanted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With small pages of 16 KB large ones have 32 MB: of a Raspberry Pi 5's memory one map would take that much."""
    monkeypatch.setattr(module, "PAGE_SIZE_FILE", tmp_path / "hpage_pmd_size")
    if content is not None:
        module.PAGE_SIZE_FILE.write_text(f"{content}\n")
    assert module.supported() is wanted


def address(array: NDArray[np.uint8]) -> int:
    return int(array.ctypes.data)


def resident_bytes() -> int:
    """What this process holds of memory that is no file's."""
    found = re.search(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return 1024 * int(found[1])


@given(st.lists(st.tuples(st.booleans(), st.integers(LEAST, 3 * PAGE)), max_size=40))
def test_arrays_are_zeros_and_lie_apart(steps: list[tuple[bool, int]]) -> None:
    """Whatever was taken and left before: what was written to one array is seen in no other."""
    pages = LargePages()
    held: list[NDArray[np.uint8]] = []
    for number, (leave, size) in enumerate(steps, start=1):
        if leave and held:
            held.pop(size % len(held))
            continue
        array = pages.zeros(size)
        assert array is not None
        assert array.size == size
        assert address(array) % LINE == 0
        assert not array.any()
        array[:] = number
        held.append(array)
    for array in held:
        assert (array == array[0]).all()
    spans = sorted((address(array), address(array) + array.size) for array in held)
    assert all(stop <= start for (_, stop), (start, _) in pairwise(spans))


@given(st.permutations(range(6)), st.lists(st.integers(1, 2 * PAGE // LINE), min_size=6, max_size=6))
def test_all_is_one_span_again_when_all_was_given_back(order: list[int], lines: list[int]) -> None:
    region = Region(REGION)
    taken = [(region.take(LINE * count), LINE * count) for count in lines]
    for number in order:
        start, size = taken[number]
        assert start is not None
        region.give_back(start, size)
    assert region.take(REGION) == 0
    assert region.take(LINE) is None


def test_pages_without_arrays_go_back_to_the_system() -> None:
    pages = LargePages()
    arrays = [pages.zeros(3 * PAGE // 2) for _ in range(16)]
    before = resident_bytes()
    for array in arrays:
        assert array is not None
        array[:] = 1
    held = resident_bytes() - before
    assert held > 20 * PAGE
    del array
    arrays.clear()
    gc.collect()
    assert resident_bytes() - before < held - 20 * PAGE


def test_a_view_keeps_its_array() -> None:
    pages = LargePages()
    array = pages.zeros(LEAST)
    assert array is not None
    array[:] = 7
    view = array[64:128].view(np.float32).reshape(4, 4)
    start = address(array)
    del array
    other = pages.zeros(LEAST)
    assert other is not None and address(other) != start
    assert (view.view(np.uint8) == 7).all()
    del view
    again = pages.zeros(LEAST)
    assert again is not None and address(again) == start
    assert not again.any()


def test_an_array_larger_than_a_region_has_its_own() -> None:
    array = LargePages().zeros(REGION + 1)
    assert array is not None and array.size == REGION + 1
    array[-1] = 1


def test_small_arrays_and_other_systems_use_malloc(monkeypatch: pytest.MonkeyPatch) -> None:
    assert LargePages().zeros(LEAST - 1) is None
    monkeypatch.setattr(module, "SUPPORTED", False)
    assert LargePages().zeros(LEAST) is None
    array = aligned_zeros((LEAST,))
    assert array.shape == (LEAST,) and array.ctypes.data % 64 == 0 and not array.any()


def test_without_address_space_malloc_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(*_: object, **__: object) -> mmap.mmap:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(module.mmap, "mmap", none_left)
    assert LargePages().zeros(LEAST) is None


def test_threads_take_and_leave_at_once() -> None:
    pages = LargePages()
    spoilt: list[int] = []

    def work(number: int) -> None:
        for size in range(LEAST, 4 * LEAST, LEAST // 16):
            array = pages.zeros(size)
            assert array is not None
            if array.any():
                spoilt.append(size)
            array[:] = number
            if not (array == number).all():
                spoilt.append(size)

    threads = [Thread(target=work, args=(number,)) for number in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not spoilt
