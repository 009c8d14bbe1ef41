"""Helpers: processes that compile what a program needs, while its weights are on their way or its first kernels compile.

Numba compiles on one core at a time, whatever the threads: Python's lock and LLVM's are held. So other processes walk the
same program with weights that take no memory, share out among them what is not in the cache, and leave it there. Nothing
depends on them: what they did not compile in time, the process itself compiles.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from weakref import finalize

from fogconv.ir import steps as ir
from fogconv.ir.program import Program, encode
from fogconv.storage.cache_folder import cache_folder
from fogconv.storage.code_files import CHOICE
from fogconv.storage.trusted import write_own

MOST = 4
"""Helpers at once: each takes 200 MB."""

WORTH_BYTES = 16 * 1000 * 1000
"""Of weights on their way: what takes less time to come is not worth a process."""

WORTH_CONVS = 16
"""Of a program, which else has few kernels."""

PROGRAM = "program"
"""The file in the folder that the helpers of one program share; the others are claims, named by what is compiled."""


class Helpers:
    """For one program. None where there is no other core, or no cache in which they could leave anything."""

    def __init__(self, program: Program, threads: int, count: int) -> None:
        self._program, self._threads = program, threads
        fits = not program.swapped and sum(isinstance(step, ir.Conv) for step in program.steps) >= WORTH_CONVS
        self._count = min(count, MOST) if fits and cache_folder() is not None else 0
        self._folder: str | None = None
        self._processes: list[subprocess.Popen[bytes]] = []
        self._end: Callable[[], object] = lambda: None

    def start(self) -> None:
        """Start them, once."""
        if self._folder is not None or not self._count:
            return
        self._folder = tempfile.mkdtemp(prefix="fogconv-kernels-")
        (Path(self._folder) / PROGRAM).write_bytes(encode(self._program))
        # -P: no module from the current folder. They import what this process did, from wherever it did.
        root = str(Path(sys.modules[__name__.partition(".")[0]].__path__[0]).parent)
        paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
        self._end = finalize(self, _end, self._processes, self._folder)
        command = [sys.executable, "-P", "-m", "fogconv.cluster.compilers", self._folder, str(self._threads)]
        with contextlib.suppress(OSError):  # no memory for one more process: then without it
            for _ in range(self._count):
                self._processes.append(
                    subprocess.Popen(
                        command,
                        stdin=subprocess.PIPE,
                        stdout=subprocess.DEVNULL,
                        stderr=subprocess.DEVNULL,
                        env=environment,
                    )
                )

    def start_ahead(self, missing: set[str]) -> None:
        """Start them while these weights come, if that takes a while and the program was never bound here before."""
        coming = sum(map(self._program.weight_bytes, missing))
        if coming >= WORTH_BYTES and not _is_known(self._program):
            self.start()

    @contextmanager
    def beside(self) -> Iterator[None]:
        """While the program is bound: they start when the second function is missing in the cache, and end with it."""
        missed = 0

        def choose(path: Path) -> bool:
            nonlocal missed
            if not self._processes and not path.exists():
                missed += 1
                if missed > 1:
                    self.start()
            return True

        token = CHOICE.set(choose)
        try:
            yield
            if self._count:
                _remember(self._program)
        finally:
            CHOICE.reset(token)
            self.close()

    def close(self) -> None:
        """End them. What they wrote stays; a file is written whole or not at all."""
        self._end()


def _end(processes: Sequence[subprocess.Popen[bytes]], folder: str) -> None:
    for process in processes:
        process.terminate()
    for process in processes:
        process.wait()
        assert process.stdin is not None
        process.stdin.close()
    shutil.rmtree(folder, ignore_errors=True)


def _is_known(program: Program) -> bool:
    mark = _mark(program)
    return mark is not None and mark.exists()


def _remember(program: Program) -> None:
    mark = _mark(program)
    if mark is not None and not mark.exists():
        with contextlib.suppress(OSError):
            write_own(mark, b"")


def _mark(program: Program) -> Path | None:
    """The file which says that all functions of a program are in the cache."""
    from fogconv.kernels.conv.tuning_table import fingerprint

    folder = cache_folder()
    digest = hashlib.sha256(encode(program) + fingerprint().encode()).hexdigest()
    return None if folder is None else folder / f"known-{digest[:40]}"
