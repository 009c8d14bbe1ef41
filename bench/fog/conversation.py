"""The protocol between the experiment and a process in a node, over two FIFOs: one JSON object per line.

FIFOs, because standard input and output don't survive every MPI launcher, and because waiting for them takes no CPU time.
The process in the node sends {"compiled": true} and waits for {"calibrate": true} where it has to measure rates under the
quotas, sends {"ready": facts} when it is loaded, then answers each {"run": N} with its measurements, until {"quit":
true}.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from fogconv.errors import ClusterError

Facts = dict[str, Any]


class Contender:
    """The experiment's end. ``process`` is the started process; the connection ends with it."""

    def __init__(self, folder: Path, name: str) -> None:
        self.name = name
        self.log = folder / "log"
        folder.mkdir(parents=True)
        for fifo in ("ask", "answer"):
            os.mkfifo(folder / fifo)
        # Opened for reading and writing, so that neither end waits for the other or gets an end of file.
        self._ask = os.open(folder / "ask", os.O_RDWR)
        self._answer = os.open(folder / "answer", os.O_RDWR)
        self._rest = b""
        self.process: subprocess.Popen[Any] | None = None

    def ask(self, question: Facts, timeout_s: float) -> Facts:
        os.write(self._ask, json.dumps(question).encode() + b"\n")
        return self.receive(timeout_s)

    def receive(self, timeout_s: float) -> Facts:
        """The next answer. Raises ClusterError, with the end of the log, when the process ends or does not answer."""
        deadline = time.monotonic() + timeout_s
        while b"\n" not in self._rest:
            if select.select([self._answer], [], [], 0.2)[0]:
                self._rest += os.read(self._answer, 1 << 16)
            elif self.process is not None and self.process.poll() is not None:
                raise ClusterError(f"{self.name} ended with exit code {self.process.returncode}:\n{self._tail()}")
            elif time.monotonic() > deadline:
                raise ClusterError(f"{self.name} did not answer within {timeout_s:.0f} s:\n{self._tail()}")
        line, self._rest = self._rest.split(b"\n", 1)
        answer: Facts = json.loads(line)
        if "error" in answer:
            raise ClusterError(f"{self.name}: {answer['error']}")
        return answer

    def run(self, repeats: int, timeout_s: float) -> Facts:
        return self.do(repeats, timeout_s)

    def do(self, question: Any, timeout_s: float) -> Facts:
        """Send any request that this contender's ``run`` knows."""
        return self.ask({"run": question}, timeout_s)

    def close(self) -> None:
        os.write(self._ask, b'{"quit": true}\n')
        if self.process is not None:
            try:
                self.process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        for descriptor in (self._ask, self._answer):
            os.close(descriptor)

    def __enter__(self) -> Contender:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _tail(self, lines: int = 15) -> str:
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return "\n".join(text.splitlines()[-lines:])


class NodeEnd:
    """The end in the node."""

    def __init__(self, folder: Path) -> None:
        self._answer = os.open(folder / "answer", os.O_RDWR)
        self._questions = os.fdopen(os.open(folder / "ask", os.O_RDWR), "r")

    def send(self, line: Facts) -> None:
        os.write(self._answer, json.dumps(line).encode() + b"\n")

    def receive(self) -> Facts:
        question: Facts = json.loads(self._questions.readline())
        return question

    def serve(self, facts: Facts, run: Callable[[Any], Facts]) -> None:
        """Send the facts, then run for each request, until the request to quit."""
        self.send({"ready": facts})
        while not (question := self.receive()).get("quit"):
            self.send(run(question["run"]))
