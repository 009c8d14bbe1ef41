"""Fuzzers: a driver for ``fuzz_*.py`` modules, and one command that runs them all one after the other.

    python -m tests.zoo.fuzz_images CORPUS… -max_total_time=60     one of them
    python -m tests.fuzzers 60                                     all of them, so many seconds each (`make fuzz`)

A fuzzer is a module `fuzz_WHAT` with a `Target`; what it found before lies in tests/corpus/WHAT. The engine is atheris
(libFuzzer, guided by coverage) where it is installed, else random changes without guidance. An input may give a value or
a FogconvError in one sentence; anything else is a finding: another exception, a crash, or no end.
"""

from __future__ import annotations

import faulthandler
import importlib.util
import inspect
import json
import logging
import os
import random
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from hashlib import sha1
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from fogconv.errors import FogconvError

ROOT = Path(__file__).resolve().parents[1]
CORPORA = ROOT / "tests" / "corpus"
FOUND = ROOT / "build" / "fuzz"
"""Findings are kept here, named after what they are and their hash."""
HAS_ATHERIS = importlib.util.find_spec("atheris") is not None
HANG_S = 30
"""An input that takes longer is a finding: on a busy machine the slowest honest ones take some seconds."""
MEMORY_MB = 3000
MOST_BYTES = 1 << 16
MOST_SENTENCE = 2000
"""A message of more characters is no sentence."""

ODD: tuple[Any, ...] = (
    None, True, -1, 0, 1, 255, 2**16, 2**31, 2**53 + 1, 2**62, 2**63, 2**64 - 1, -(2**63), 10**400, 0.5, -0.0, 1e308, 5e-324,
    float("nan"), float("inf"), "", "x", "0", "-1", "nan", "../x", "\0", "\x1b[31m", "é" * 81, "x" * 5000, [], [0],
    [[[[]]]], {}, {"": 0}, {"a": [1]},
)  # fmt: skip
ODD_WORDS = (
    b"", b"0", b"-1", b"1e999", b"nan", b"inf", b"9" * 20, b"9" * 5000, b"65536", b"\xff", b"\0", b"#", b":", b"=", b"\n",
    b"\r", b"\xe2\x80\xa8", b"\xd9\xa3", "Ⅷ".encode(), b"x" * 5000, b" ", b"*", b"[/oops]", b"\x1b[2J", b"%s", b"~",
    b"../", b"@",
)  # fmt: skip


@dataclass(frozen=True)
class Target:
    """``one_input`` raises for a finding only. ``watched``: the modules whose coverage guides the engine."""

    one_input: Callable[[bytes], None]
    seeds: Callable[[], dict[str, bytes]]
    changed: Callable[[bytes, random.Random], bytes]
    watched: tuple[ModuleType, ...] = ()
    most_bytes: int = MOST_BYTES
    hang_s: int = HANG_S


@contextmanager
def in_a_sentence() -> Iterator[None]:
    """A FogconvError is a right answer if it is one line that says something."""
    try:
        yield
    except FogconvError as error:
        text = str(error)
        assert text and text == text.strip(), f"not a sentence: {text!r}"
        assert len(text) <= MOST_SENTENCE, f"{len(text)} characters: {text[:300]!r}…"
        assert len(text.splitlines()) == 1, f"several lines: {text!r}"


@cache
def scratch() -> Path:
    """A folder of this process for what is written."""
    return Path(tempfile.mkdtemp(prefix="fuzz-"))


def main(target: Target) -> None:
    """Be the program of a fuzzer's module: ``sys.argv`` is libFuzzer's."""
    logging.disable()
    faulthandler.enable()
    folders = [Path(word) for word in sys.argv[1:] if not word.startswith("-")]
    files = [folder for folder in folders if folder.is_file()]
    if folders and not files:
        folders[0].mkdir(parents=True, exist_ok=True)
        for name, data in target.seeds().items():
            (folders[0] / name).write_bytes(data)
    if HAS_ATHERIS:
        _guided(target)
    else:
        _blind(target, folders)


def _guided(target: Target) -> None:
    import atheris

    for function in functions_of(target.watched):
        atheris.instrument_func(function)

    def mutate(data: bytes, max_size: int, seed: int) -> bytes:
        generator = random.Random(seed)
        if generator.random() < 0.6:
            data = target.changed(data, generator)
            if generator.random() < 0.8:
                return data[:max_size]
        return bytes(atheris.Mutate(data, max_size))

    usual = {"-max_len": target.most_bytes, "-timeout": target.hang_s, "-rss_limit_mb": MEMORY_MB}
    given = {word.partition("=")[0] for word in sys.argv}
    sys.argv += [f"{name}={value}" for name, value in usual.items() if name not in given]
    atheris.Setup(sys.argv, target.one_input, custom_mutator=mutate)
    atheris.Fuzz()


def functions_of(modules: Sequence[ModuleType]) -> Iterator[FunctionType]:
    """What is defined in modules: functions, and those of classes. (Hooks on imports would take whole packages.)"""
    for module in modules:
        for value in list(vars(module).values()):
            held = [value] if not inspect.isclass(value) else list(vars(value).values())
            for each in held:
                function = getattr(each, "fget", None) or inspect.unwrap(getattr(each, "__func__", each))
                if isinstance(function, FunctionType) and function.__module__ == module.__name__:
                    yield function


def _blind(target: Target, folders: Sequence[Path]) -> None:
    """The same without atheris: random changes of what is there."""
    options = dict(word[1:].partition("=")[::2] for word in sys.argv[1:] if word.startswith("-"))
    inputs = [
        file.read_bytes() for folder in folders for file in ([folder] if folder.is_file() else sorted(folder.iterdir()))
    ]
    generator = random.Random(int(options.get("seed", "0")) or time.time_ns())
    until = time.monotonic() + float(options.get("max_total_time", "60"))
    count = 0

    def tried(data: bytes) -> None:
        faulthandler.dump_traceback_later(target.hang_s, exit=True)
        try:
            target.one_input(data)
        except BaseException:
            traceback.print_exc()
            Path(options.get("artifact_prefix", "") + f"crash-{sha1(data).hexdigest()}").write_bytes(data)
            sys.exit(77)
        faulthandler.cancel_dump_traceback_later()

    for data in inputs:
        tried(data)
    while time.monotonic() < until and not (folders and folders[0].is_file()):
        data = generator.choice(inputs or [b""])
        for _ in range(generator.randint(1, 4)):
            data = (target.changed if generator.random() < 0.6 else scrambled)(data, generator)[: target.most_bytes]
        tried(data)
        count += 1
    print(f"stat::number_of_executed_units: {count}", file=sys.stderr)


def scrambled(data: bytes, generator: random.Random) -> bytes:
    """Some bytes changed, cut out, doubled or put in."""
    if not data:
        return generator.randbytes(generator.randint(1, 16))
    begin = generator.randrange(len(data))
    end = min(len(data), begin + generator.choice((1, 1, 2, 4, 16, 256)))
    match generator.randrange(4):
        case 0:
            return data[:begin] + generator.randbytes(end - begin) + data[end:]
        case 1:
            return data[:begin] + data[end:]
        case 2:
            return data[:end] + data[begin:]
        case _:
            return data[:begin] + generator.choice(ODD_WORDS) + data[begin:]


def reworded(data: bytes, generator: random.Random, words: Sequence[bytes] = ()) -> bytes:
    """A text with a word or a line changed, left out, doubled or moved."""
    parts = data.splitlines(keepends=True) if generator.random() < 0.3 else re.findall(rb"\w+|[^\w\s]|\s+", data)
    if not parts:
        return generator.choice([*words, *ODD_WORDS])
    place = generator.randrange(len(parts))
    match generator.randrange(5):
        case 0:
            del parts[place]
        case 1:
            parts.insert(generator.randrange(len(parts)), parts[place])
        case 2:
            parts.insert(place, generator.choice([*words, *ODD_WORDS]))
        case _:
            parts[place] = generator.choice([*words, *ODD_WORDS])
    return b"".join(parts)


def changed(tree: Any, generator: random.Random, odd: Sequence[Any] = ODD) -> Any:
    """One value of a tree of dicts and lists changed, left out, doubled, or in the place of another."""
    if isinstance(tree, dict) and tree and generator.random() < 0.9:
        key = generator.choice(list(tree))
        match generator.randrange(12):
            case 0:
                return {name: value for name, value in tree.items() if name != key}
            case 1:
                return {**tree, generator.choice(("x", "", key + "_")): tree[key]}
            case 2:
                return {**tree, key: tree[generator.choice(list(tree))]}
            case _:
                return {**tree, key: changed(tree[key], generator, odd)}
    if not isinstance(tree, list) or not tree or generator.random() < 0.1:
        if isinstance(tree, int | float) and not isinstance(tree, bool) and generator.random() < 0.5:
            return generator.choice((tree + 1, tree - 1, -tree, tree * 2, float(tree) / 2 if abs(tree) < 1e300 else 0))
        return generator.choice(odd)
    place = generator.randrange(len(tree))
    match generator.randrange(10):
        case 0:
            return tree[:place] + tree[place + 1 :]
        case 1:
            return [*tree[:place], tree[place], *tree[place:]]
        case 2:
            return [*tree[:place], generator.choice(tree), *tree[place + 1 :]]
        case _:
            return [*tree[:place], changed(tree[place], generator, odd), *tree[place + 1 :]]


def changed_json(data: bytes, generator: random.Random, odd: Sequence[Any] = ODD) -> bytes:
    """The same for a JSON text; what is none is reworded."""
    try:
        return json.dumps(changed(json.loads(data), generator, odd)).encode("utf-8", "surrogatepass")
    except (ValueError, RecursionError, OverflowError):
        return reworded(data, generator)


# --- all of them ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """How a fuzzer ended. ``finding`` is empty where it found nothing, else what its process printed last."""

    what: str
    inputs: int
    seconds: float
    finding: str = ""

    def __str__(self) -> str:
        verdict = f"FOUND something, kept in {FOUND.relative_to(ROOT)}" if self.finding else "nothing found"
        return f"{self.what:<12} {self.inputs:>9,} inputs in {self.seconds:5.0f} s: {verdict}"


def fuzzers() -> tuple[str, ...]:
    """The modules ``fuzz_*.py`` under tests, as names."""
    return tuple(
        ".".join(file.relative_to(ROOT).with_suffix("").parts) for file in sorted((ROOT / "tests").rglob("fuzz_*.py"))
    )


def run(module: str, seconds: float, folder: Path) -> Outcome:
    """Run one for so long in a process of its own, what is kept first. New inputs go to ``folder``."""
    what = module.rpartition(".fuzz_")[2]
    FOUND.mkdir(parents=True, exist_ok=True)
    kept = [str(CORPORA / what)] if (CORPORA / what).is_dir() else []
    command = [sys.executable, "-m", module, str(folder), *kept, f"-max_total_time={seconds:.0f}"]
    # libFuzzer looks at the peak, and a process begins with that of its parent.
    most_mb = MEMORY_MB + (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10)
    if "FIXED_EXAMPLES" in os.environ:
        command.append("-seed=1")
    command += [f"-artifact_prefix={FOUND}/{what}-", "-print_final_stats=1", f"-rss_limit_mb={most_mb}"]
    begin = time.monotonic()
    # A home of its own: nothing of this user is read or written.
    with tempfile.TemporaryDirectory() as home:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "HOME": home, "TMPDIR": home, "OMP_NUM_THREADS": "1"}
        for name in ("XDG_CONFIG_HOME", "XDG_CACHE_HOME"):
            environment.pop(name, None)
        environment.setdefault("FOGCONV_CACHE_DIR", str(_cache_folder()))
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, errors="replace", check=False
        )
    for file in folder.glob("finding-*"):
        shutil.copy(file, FOUND / f"{what}-{file.name}")
    counted = re.findall(r"number_of_executed_units: (\d+)|^(\d+) inputs of", done.stderr, re.MULTILINE)
    told = "\n".join(line for line in done.stderr.splitlines() if not re.match(r"#\d+\s", line))
    output = done.stdout[-3000:] + told[-6000:]
    finding = "" if done.returncode == 0 else output or f"exit code {done.returncode}"
    return Outcome(what, max((int(a or b) for a, b in counted), default=0), time.monotonic() - begin, finding)


def _cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fogconv"


def run_all(seconds: float) -> int:
    """All of them, a line each. The number of those that found something."""
    found = 0
    for module in fuzzers():
        with tempfile.TemporaryDirectory() as folder:
            outcome = run(module, seconds, Path(folder))
        print(outcome, flush=True)
        if outcome.finding:
            found += 1
            print(outcome.finding, file=sys.stderr)
    return found


if __name__ == "__main__":
    sys.exit(min(run_all(float(sys.argv[1]) if len(sys.argv) > 1 else 60.0), 1))
