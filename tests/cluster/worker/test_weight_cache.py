"""Weights on a worker: once in memory, shared by programs, and there again for the next one."""

from __future__ import annotations

import errno
import math
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

import fogconv.cluster.worker.program_loader as program_loader
from fogconv.cluster.executor.executable import Executable
from fogconv.cluster.executor.interface import nothing
from fogconv.cluster.executor.microbenchmark import NoMailbox, conv_program
from fogconv.cluster.protocol import messages as m
from fogconv.cluster.worker.master_session import MasterSession
from fogconv.cluster.worker.program_loader import ProgramLoader
from fogconv.cluster.worker.weight_cache import WeightStore
from fogconv.errors import SwapError, WorkerFailedError, WorkerMemoryError
from fogconv.ir.geometry import ConvSpec
from fogconv.ir.memory.footprint import PROCESS_BYTES, footprint, packings
from fogconv.ir.precision.elements import Half, weight_type
from fogconv.ir.program import Program, encode
from fogconv.kernels.conv.conv import algorithm_of
from fogconv.storage import swap_file
from fogconv.storage.swap_file import SwapFolder

DIRECT = ConvSpec(64, 128, 20, 20, (1, 1))
WINOGRAD = ConvSpec(64, 96, 40, 40, (3, 3), padding=(1, 1, 1, 1))
BYTES = ConvSpec(64, 96, 12, 12, (3, 3), padding=(1, 1, 1, 1), element="uint8")
TINY = ConvSpec(64, 96, 1, 1, (3, 3), padding=(1, 1, 1, 1))


def of(spec: ConvSpec) -> tuple[Program, dict[str, Any], str]:
    program, weights = conv_program(spec)
    return program, weights, next(key for key, shape in program.weights.items() if len(shape) == 4)


class Loads:
    """A loader, and a master that sends what is missing."""

    def __init__(
        self, limit: int = 0, *, keep_weights: bool = True, build: Any = Executable, swap: SwapFolder | None = None
    ) -> None:
        self.loader = ProgramLoader(
            build, threads=1, memory_limit_bytes=limit, keep_weights=keep_weights, swap=swap, adopt=self._adopt
        )
        self.session = MasterSession("master", 1, m.Hello(b"", 0, 1, "test", 1.0))
        self.programs: dict[int, Any] = {}
        self.number = 0

    @property
    def store(self) -> WeightStore:
        return self.loader.store

    def _adopt(self, session: Any, loading: Any, executable: Any) -> None:
        self.programs[loading.number] = executable

    def __call__(self, program: Program, weights: dict[str, Any]) -> tuple[int, int]:
        """Load; the program's number, and the bytes that had to be sent. Raises what the worker answers."""
        self.number += 1
        answers = list(self.loader.load(self.session, m.Load(self.number, self.number), encode(program), nothing))
        missing = answers[0]
        assert isinstance(missing, m.Missing)
        for key in missing.keys:
            array = np.ascontiguousarray(weights[key])
            answers += self.loader.keep(
                self.session, m.Weight(key, array.shape, dtype=weight_type(array)), array.tobytes(), nothing
            )
        if isinstance(failed := answers[-1], m.Failed):
            kinds = {error.__name__: error for error in (WorkerMemoryError, WorkerFailedError, SwapError)}
            raise kinds[failed.error](failed.message)
        assert isinstance(answers[-1], m.Loaded)
        return self.number, sum(weights[key].nbytes for key in missing.keys)

    def unload(self, number: int) -> None:
        del self.programs[number]


@pytest.fixture(autouse=True)
def _no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the process of the tests holds is not this worker's."""
    monkeypatch.setattr(program_loader, "process_bytes", lambda: 0)


@pytest.mark.parametrize("spec", [DIRECT, WINOGRAD])
def test_what_is_swapped_takes_no_memory_and_is_computed_all_the_same(spec: ConvSpec, tmp_path: Path) -> None:
    program, weights, key = of(spec)
    swapped = msgspec.structs.replace(program, swapped=(key,))
    needed = footprint(swapped)
    assert needed.packed == 0 < needed.slot < needed.transit <= needed.disk
    results = []
    for each, limit in ((program, 0), (swapped, 0), (swapped, PROCESS_BYTES + needed.total)):
        load = Loads(limit, swap=SwapFolder(tmp_path))
        load(each, weights)
        executable = load.programs[1]
        executable._buffers[0].interior[...] = 0.5
        executable.run(NoMailbox())
        results.append(executable._buffers[1].data.copy())
        assert (load.store.held_bytes < 10_000) is (each is swapped)
        assert not list(tmp_path.iterdir())
    np.testing.assert_array_equal(results[1], results[2])
    # Swapped weights are never Winograd's, which take four times as many bytes.
    np.testing.assert_allclose(results[1], results[0], rtol=0, atol=1e-5 * float(np.abs(results[0]).max()))


def test_what_is_swapped_is_not_sent_again_and_leaves_the_disk_when_another_program_comes(tmp_path: Path) -> None:
    program, weights, key = of(DIRECT)
    swapped = msgspec.structs.replace(program, swapped=(key,))
    load = Loads(swap=SwapFolder(tmp_path))
    first, _ = load(swapped, weights)
    load.unload(first)
    second, sent = load(swapped, weights)
    assert sent == 0, "it was kept on the disk"
    load.unload(second)
    other, more, _ = of(TINY)
    load(other, more)
    assert not load.store.has(key), "no program uses it"
    assert load(swapped, weights)[1] >= weights[key].nbytes


def test_a_disk_without_room_is_known_before_weights_are_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program, weights, key = of(DIRECT)
    full = shutil.disk_usage("/")._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: full)
    load = Loads(swap=SwapFolder(tmp_path))
    with pytest.raises(SwapError, match="make room"):
        load(msgspec.structs.replace(program, swapped=(key,)), weights)
    load(program, weights)


def test_a_disk_that_fills_up_meanwhile_is_told_to_the_master(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program, weights, key = of(DIRECT)

    def full(handle: int, nbytes: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(swap_file, "_allocate", full)
    with pytest.raises(SwapError, match="No space left"):
        Loads(swap=SwapFolder(tmp_path))(msgspec.structs.replace(program, swapped=(key,)), weights)


@pytest.mark.parametrize(("spec", "algorithm"), [(DIRECT, "direct"), (WINOGRAD, "winograd4"), (BYTES, "int8")])
def test_what_is_packed_is_shared_and_not_sent_again(spec: ConvSpec, algorithm: str) -> None:
    assert algorithm_of(spec) == algorithm
    program, weights, key = of(spec)
    load = Loads()
    first, sent = load(program, weights)
    assert sent == sum(weight.nbytes for weight in weights.values())
    held = load.store.held_bytes
    assert load(program, weights)[1] == 0
    assert load.store.held_bytes == held, "the second program shares the first one's"
    load.unload(first)
    load.unload(2)
    assert load.store.has(key)
    assert load(program, weights)[1] == 0
    assert np.array_equal(load.store.plain(key), weights[key])
    load.programs[3].run(NoMailbox())


def test_plain_weights_go_when_the_packed_ones_can_be_turned_back() -> None:
    program, weights, key = of(DIRECT)
    load = Loads()
    load(program, weights)
    assert load.store.plain_bytes([key]) == 0
    assert load.store.held_bytes < 1.2 * weights[key].nbytes
    assert load.store.bytes == sum(weight.nbytes for weight in weights.values())
    assert np.array_equal(load.store.plain(key), weights[key])


def test_weights_of_8_bits_are_packed_once_for_each_scale() -> None:
    program, weights, key = of(BYTES)
    load = Loads()
    load(program, weights)
    held, [before] = load.store.held_bytes, load.store.packed
    read, made = program.buffers
    other = msgspec.structs.replace(made, precision=replace(made.precision, zero=7))
    load(msgspec.structs.replace(program, buffers=(read, other)), weights)
    assert load.store.packed > {before} and load.store.held_bytes > held
    assert {packing.weight for packing in load.store.packed} == {key}
    tight = Loads(PROCESS_BYTES + footprint(program).total)
    tight(program, weights)
    assert tight.store.plain_bytes([key]) == 0 and tight.store.kind(key) == "int8"
    assert tight.store.bytes == sum(weight.nbytes for weight in weights.values())


@pytest.mark.parametrize("element", ["fp16", "bf16"])
def test_weights_in_fp32_are_packed_once_for_each_precision_of_maps(element: Half) -> None:
    """Those of depthwise convs are the same in 16 bits."""
    wide = ConvSpec(32, 32, 9, 9, (3, 3), padding=(1, 1, 1, 1), groups=32)
    load = Loads()
    keys = set()
    for spec in (wide, replace(wide, element=element)):
        program, weights, key = of(spec)
        load(program, weights)
        keys.add(key)
    assert len(keys) == 1 and {packing.weight for packing in load.store.packed} == keys
    assert len(load.store.packed) == 2
    load.programs[2].run(NoMailbox())


def test_winograds_plain_weights_stay_where_there_is_room_and_go_where_there_is_not() -> None:
    program, weights, key = of(WINOGRAD)
    roomy = Loads()
    roomy(program, weights)
    assert roomy.store.plain_bytes([key]) == weights[key].nbytes
    needed = footprint(program).total
    tight = Loads(PROCESS_BYTES + needed)
    number, _ = tight(program, weights)
    assert tight.store.plain_bytes([key]) == 0
    # Only what it has can be used again: the same packing without the plain weight, another one not.
    assert tight.store.missing([key], packings(program, algorithm_of)) == set()
    small, _, same = of(TINY)
    assert same == key and algorithm_of(TINY) == "direct"
    assert tight.store.missing([key], packings(small, algorithm_of)) == {key}
    assert roomy.store.missing([key], packings(small, algorithm_of)) == set()
    tight.unload(number)
    assert tight(program, weights)[1] == 0


def test_two_packings_of_one_weight_are_made_of_one_that_came_once() -> None:
    large, weights, key = of(WINOGRAD)
    small, _, _ = of(TINY)
    for limit in (0, PROCESS_BYTES + footprint(large).total + footprint(small).total):
        load = Loads(limit)
        assert load(small, weights)[1] > 0
        assert load(large, weights)[1] == 0
        assert {packing.algorithm for packing in load.store.packed if packing.weight == key} == {"direct", "winograd4"}
        assert load.store.plain_bytes([key]) == 0, "the direct one can be turned back"


def test_a_program_beyond_the_limit_is_refused_before_its_weights_come() -> None:
    program, weights, _ = of(WINOGRAD)
    needed = footprint(program).total
    load = Loads(PROCESS_BYTES + needed - 1)
    with pytest.raises(WorkerMemoryError, match=rf"needs {needed / 1e6:.0f} MB .* are for the process itself"):
        load(program, weights)
    assert load.store.held_bytes == 0
    assert Loads(PROCESS_BYTES + needed)(program, weights)


def test_what_no_program_uses_makes_room_for_the_next() -> None:
    first, weights, key = of(WINOGRAD)
    second, others, _ = of(replace(DIRECT, in_channels=1024, out_channels=1024))
    load = Loads(PROCESS_BYTES + footprint(second).total)
    number, _ = load(first, weights)
    with pytest.raises(WorkerMemoryError):
        load(second, others)
    load.unload(number)
    load(second, others)
    assert not load.store.has(key)


def test_without_keeping_only_what_programs_use_stays() -> None:
    program, weights, key = of(WINOGRAD)
    load = Loads(keep_weights=False)
    number, _ = load(program, weights)
    assert load.store.plain_bytes(weights) == 0
    load.unload(number)
    assert not load.store.has(key)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (MemoryError(), WorkerMemoryError),
        (OSError(12, "Cannot allocate memory"), WorkerMemoryError),
        (RuntimeError("LLVM: Unable to allocate memory"), WorkerMemoryError),
        (RuntimeError("LLVM: broken module"), WorkerFailedError),
        (OSError(28, "No space left on device"), WorkerFailedError),
    ],
    ids=repr,
)
def test_running_out_of_memory_while_binding_is_a_refusal(error: Exception, kind: type[Exception]) -> None:
    def build(program: Program, weights: Any, **options: Any) -> Any:
        raise error

    program, weights, _ = of(DIRECT)
    load = Loads(build=build)
    with pytest.raises(kind):
        load(program, weights)
    assert not load.session.loading


def test_a_process_that_is_over_its_limit_after_all_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    program, weights, _ = of(DIRECT)
    limit = PROCESS_BYTES + footprint(program).total
    load = Loads(limit)
    held: Callable[[], int] = lambda: math.ceil(1.11 * limit)  # noqa: E731
    monkeypatch.setattr(program_loader, "process_bytes", held)
    with pytest.raises(WorkerMemoryError, match="the process holds"):
        load(program, weights)
    assert not load.programs
    monkeypatch.setattr(program_loader, "process_bytes", lambda: limit)
    load(program, weights)
