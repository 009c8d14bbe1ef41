"""The process of one runtime, from outside: it is asked by lines, and answers in JSON (`bench.peers.one_runtime`)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bench.contestants import MALLOC


class Process:
    """One runtime's process, on so many cores: the last ones that this process may use. Its log is in ``folder``."""

    def __init__(self, stack: ExitStack, name: str, folder: Path, threads: int, precision: str) -> None:
        environment = {**os.environ, **MALLOC, "OMP_NUM_THREADS": str(threads), "NUMBA_NUM_THREADS": str(threads)}
        cores = sorted(os.sched_getaffinity(0))[-threads:]
        self._log = folder / f"{name}.log"
        log = stack.enter_context(self._log.open("w"))
        self._process = stack.enter_context(
            subprocess.Popen(
                [sys.executable, "-m", "bench.peers.one_runtime", name, str(threads), precision],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=environment,
                preexec_fn=lambda: os.sched_setaffinity(0, cores),
            )
        )
        stack.callback(self.end)

    def end(self) -> None:
        self._process.terminate()

    def opened(self, folder: Path) -> float:
        """Open the model in ``folder`` and run it once: its largest error, in parts of the largest value."""
        return float(self._ask(f"open {folder}"))

    def seconds(self, folder: Path, count: int, pause_s: float = 0.0) -> list[float]:
        """Of so many inferences of the model in ``folder``, each after so many seconds of sleep."""
        return [float(each) for each in self._ask(f"wall {folder} {count} {pause_s}")]

    def processor_seconds(self, folder: Path, count: int) -> list[float]:
        """The same in seconds of the processor, which other work on the same core does not lengthen."""
        return [float(each) for each in self._ask(f"processor {folder} {count} 0")]

    def close_models(self) -> None:
        """Forget all models."""
        self._ask("close")

    def _ask(self, question: str) -> Any:
        """The answer. Raises RuntimeError, with the last line that it printed, where the process ends."""
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(question + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            lines = self._log.read_text(errors="replace").strip().splitlines()
            raise RuntimeError(lines[-1][:200] if lines else "it ended and printed nothing")
        return json.loads(line)
