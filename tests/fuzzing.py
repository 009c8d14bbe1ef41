"""Fuzzing in a process of its own, so that an input that crashes or hangs is found out and kept.

    python -m tests.….fuzz_WHAT CORPUS [MORE …] -max_total_time=S [-seed=N]

CORPUS is a folder of inputs to begin from, as are MORE; inputs that do something new are added to CORPUS, and so is one that
ends the fuzzing, as ``finding-…``. The exit code is then 1.

A parent watches a child that makes inputs and tries them one by one. Each is written down before it is tried.
"""

from __future__ import annotations

import hashlib
import logging
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.launch import ROOT, environment

HANG_S = 90.0
"""An input that takes longer hangs; compiling a kernel on a busy machine takes seconds."""
CORPUS = Path(__file__).resolve().parent / "corpus"


@dataclass(frozen=True)
class Fuzzer:
    """``try_one(data)`` raises nothing but for a bug; it returns traits of what happened, by which an input that does
    something new is told. ``make(random, pool)`` makes an input, perhaps of one in the pool. ``prepare()`` is called once,
    in the child."""

    module: str
    try_one: Callable[[bytes], Collection[str]]
    make: Callable[[random.Random, list[bytes]], bytes]
    seeds: Callable[[], Mapping[str, bytes]]
    prepare: Callable[[], None]

    def main(self) -> None:
        """The command line."""
        arguments = sys.argv[1:]
        options = dict(argument.lstrip("-").split("=", 1) for argument in arguments if argument.startswith("-"))
        folders = [Path(argument) for argument in arguments if not argument.startswith("-")]
        seconds, seed = float(options.get("max_total_time", 60)), int(options.get("seed", time.time_ns() % 2**32))
        if "current" in options:
            self._child(folders, Path(options["current"]), seconds, seed)
        else:
            sys.exit(self._parent(folders, seconds, seed))

    def replay(self, inputs: Mapping[str, bytes], timeout_s: float = 300.0) -> None:
        """Try inputs in a child. Raises AssertionError for one that crashes, hangs or raises."""
        with tempfile.TemporaryDirectory() as folder:
            for number, data in enumerate(inputs.values()):
                (Path(folder) / f"{number:06}").write_bytes(data)
            current = Path(folder) / "current.input"
            command = [sys.executable, "-m", self.module, folder, f"-current={current}", "-max_total_time=0"]
            done = subprocess.run(
                command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=timeout_s, check=False
            )
            names = list(inputs)
            place = next((i for i, data in enumerate(inputs.values()) if data == current.read_bytes()), 0)
            assert done.returncode == 0, f"{names[place]}: exit code {done.returncode}: {done.stderr[-3000:]}"

    def _parent(self, folders: list[Path], seconds: float, seed: int) -> int:
        corpus = folders[0]
        corpus.mkdir(parents=True, exist_ok=True)
        begin = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            current = Path(folder) / "current.input"
            command = [sys.executable, "-m", self.module, *map(str, folders), f"-current={current}"]
            child = subprocess.Popen([*command, f"-max_total_time={seconds}", f"-seed={seed}"], cwd=ROOT, env=environment())
            hangs = False
            try:
                while child.poll() is None and not hangs:
                    with suppress(subprocess.TimeoutExpired):
                        child.wait(0.5)
                    with suppress(FileNotFoundError):
                        hangs = time.time() - current.stat().st_mtime > HANG_S
            finally:
                child.kill()
                child.wait()
            if not hangs and child.returncode == 0:
                return 0
            data = current.read_bytes() if current.exists() else b""
            kept = corpus / f"finding-{hashlib.sha1(data).hexdigest()}"
            kept.write_bytes(data)
            how = "hangs" if hangs else f"ends it with {child.returncode}"
            print(f"{kept} {how}, after {time.monotonic() - begin:.0f} s (seed {seed})", file=sys.stderr)
            return 1

    def _child(self, folders: list[Path], current: Path, seconds: float, seed: int) -> None:
        logging.disable()
        self.prepare()
        generator = random.Random(seed)
        begun = {path.name: path.read_bytes() for folder in folders for path in sorted(folder.iterdir()) if path != current}
        seen: set[str] = set()
        pool: list[bytes] = []
        deadline = time.monotonic() + seconds
        tried = 0

        def attempt(data: bytes) -> bool:
            current.write_bytes(data)
            new = set(self.try_one(data)) - seen
            if new:
                seen.update(new)
                pool.append(data)
            return bool(new)

        for data in [*self.seeds().values(), *begun.values()]:
            attempt(data)
        while time.monotonic() < deadline:
            data = self.make(generator, pool)
            tried += 1
            if attempt(data):
                (folders[0] / hashlib.sha1(data).hexdigest()).write_bytes(data)
        print(f"{tried} inputs of {self.module} in {seconds:g} s, {len(seen)} traits", file=sys.stderr)
