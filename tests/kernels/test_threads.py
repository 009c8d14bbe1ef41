"""Kernels on several threads: every part is done once, also where several callers come at the same time."""

from __future__ import annotations

import threading

import pytest

from fogconv.kernels.threads import parallel


def test_all_parts_are_done_once_before_it_returns() -> None:
    done: list[int] = []
    run = parallel([lambda number=number: done.append(number) for number in range(3)])  # type: ignore[misc]
    for _ in range(100):
        done.clear()
        run()
        assert sorted(done) == [0, 1, 2]


def test_callers_on_several_threads_do_not_take_each_others_parts() -> None:
    wrong: list[str] = []

    def caller(name: str) -> None:
        done: list[int] = []
        run = parallel([lambda number=number: done.append(number) for number in range(2)])  # type: ignore[misc]
        for _ in range(2000):
            done.clear()
            run()
            if sorted(done) != [0, 1]:
                wrong.append(f"{name}: {done}")

    threads = [threading.Thread(target=caller, args=(f"caller {number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30.0)
    assert not wrong


def test_an_error_in_any_part_comes_out_and_the_helpers_stay_usable() -> None:
    def fail() -> None:
        raise ValueError("a part failed")

    for calls in ([fail, lambda: None], [lambda: None, fail]):
        with pytest.raises(ValueError, match="a part failed"):
            parallel(calls)()
    done: list[int] = []
    parallel([lambda: done.append(0), lambda: done.append(1)])()
    assert sorted(done) == [0, 1]
