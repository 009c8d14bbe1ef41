"""Bad values through every option of every command: exit code 2, one sentence on stderr, and nothing on stdout."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from types import FrameType, UnionType
from typing import Any, get_args, get_origin

import pytest

from fogconv.cli.options.values import OptionValue
from tests.cli import program
from tests.cli.bad_values import BAD, bad_values, options, prepared, spelling
from tests.cluster.launch import environment

HANG_S = 60
"""A command that is still there then hangs."""

REQUIRED = {
    "run": ("squeezenet1_1", "--weights", "random", "--size", "64"),
    "plan": ("squeezenet1_1", "--size", "64"),
    "simulate": ("squeezenet1_1", "--size", "64"),
    "status": ("--cluster", "tcp://127.0.0.1:1", "--once"),
    "speedup": ("--c", "8"),
    "choose": ("squeezenet1_1",),
    "models": ("ppocr-det", "get"),
    "compare": ("FILE", "FILE"),
    "warm": ("squeezenet1_1", "--weights", "random", "--size", "64"),
}
"""What a command needs beside the option that is tried."""


def takes_a_value(kind: Any) -> bool:
    """Not for flags, nor for choices, which typer itself holds to their list."""
    plain = {one for one in get_args(kind) if one is not type(None)} if get_origin(kind) is UnionType else {kind}
    return not all(isinstance(one, type) and (issubclass(one, bool) or issubclass(one, Enum)) for one in plain)


VALUED = [
    pytest.param(command, name, declared, id=f"{command}-{name}")
    for command, name, kind, declared in options()
    if takes_a_value(kind)
]


@contextmanager
def hang_guard() -> Iterator[None]:
    def give_up(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"it hangs: more than {HANG_S} s")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(HANG_S)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def check(code: int, stdout: str, stderr: str, of: object) -> None:
    assert code == 2, (of, code, stderr[-2000:])
    assert stdout == "", (of, stdout[:300])
    assert len(stderr.splitlines()) == 1 and len(stderr) < 700, (of, stderr)
    assert stderr.strip().isprintable() and "Traceback" not in stderr, (of, stderr)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    prepared(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path


@pytest.mark.parametrize(("command", "name", "declared"), VALUED)
def test_every_option_has_a_kind(command: str, name: str, declared: Any) -> None:
    value = declared.parser
    assert isinstance(value, OptionValue), f"give {command}'s {name} a value of fogconv.cli.options.values, as its parser"
    assert value.kind in BAD, f"tests.cli.bad_values.BAD has no values of the kind {value.kind}"


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(("command", "name", "declared"), VALUED)
def test_a_bad_value_is_one_sentence(command: str, name: str, declared: Any) -> None:
    option = spelling(name, declared)
    required = REQUIRED.get(command, ())
    json = ("--json",) * (command in {each for each, _ in JSON})
    for bad in bad_values(declared.parser):
        tried = (*required[1:], *json, "--", bad) if option is None else (*required, *json, f"{option}={bad}")
        with hang_guard():
            found = program.call(command, *tried)
        check(found.exit_code, found.stdout, found.stderr, (command, option, bad[:80]))


JSON = [(command, name) for command, name, _, _ in options() if name in ("json", "as_json")]


@pytest.mark.parametrize(("command", "name"), JSON)
def test_json_holds_no_usage(command: str, name: str) -> None:
    for arguments in (("--json", "--no-such-option"), ("--json", "a", "b", "c")):
        found = program.call(command, *arguments)
        check(found.exit_code, found.stdout, found.stderr, (command, arguments))


NAME, DIGITS = "n" * 300, "4" * 400
PROCESSES = [
    ("run", NAME),
    ("run", f"{NAME}.pt2"),
    ("run", "squeezenet1_1", "--image", f"{NAME}.png"),
    ("run", "squeezenet1_1", "--weights", NAME),
    ("run", "squeezenet1_1", "--labels", "~nosuchuser/labels"),
    ("run", "squeezenet1_1", "--keys", "~nosuchuser"),
    ("run", "squeezenet1_1", "--size", "0"),
    ("plan", "squeezenet1_1", "--size", "-5"),
    ("simulate", "squeezenet1_1", "--size", "1e9"),
    ("run", "squeezenet1_1", "--trigger", "channels:"),
    ("run", "squeezenet1_1", "--trigger", f"channels:{DIGITS}"),
    ("run", "squeezenet1_1", "--timeout", "0"),
    ("run", "squeezenet1_1", "--timeout", "-1"),
    ("run", "squeezenet1_1", "--timeout", "nan"),
    ("run", "squeezenet1_1", "--timeout", "inf"),
    ("run", "squeezenet1_1", "--timeout", "1e300"),
    ("run", "squeezenet1_1", "--patience", "inf"),
    ("run", "squeezenet1_1", "--plan", "latin1.json", "--workers", "0"),
    ("plan", "squeezenet1_1", "--rate", "1e-320", "--bandwidth", "1Gbit"),
    ("worker", "--memory", DIGITS),
    ("worker", "--memory", "1K"),
    ("keygen", "/proc/keys-of-fogconv"),
    ("keygen", "FILE"),
    ("plan", "squeezenet1_1", "--batch", "1000000000"),
    ("simulate", "squeezenet1_1", "--jitter", "nan"),
    ("speedup", "--c", DIGITS),
    ("worker", "--bind", "tcp://127.0.0.1:65537"),
    ("status", "--cluster", "tcp://127.0.0.1:70000", "--once"),
    ("doctor", "--port", "70000"),
    ("run", "squeezenet1_1", "--threads", "-1"),
    ("worker", "--threads", "1000000"),
    ("run", "squeezenet1_1", "--workers", "-7"),
    ("worker", "--bind", "inproc://x"),
    ("worker", "--heartbeat", "nan"),
    ("worker", "--heartbeat", "inf"),
    ("run", "squeezenet1_1", "--heartbeat", "1e9"),
    ("run", "squeezenet1_1", "--image", "PIPE"),
    ("run", "squeezenet1_1", "--weights", "/dev/zero"),
    ("run", "squeezenet1_1", "--cluster", "PIPE"),
    ("simulate", "squeezenet1_1", "--profile", "FOLDER"),
    ("simulate", "squeezenet1_1", "--straggler", "1xnan"),
    ("speedup", "--model", "vgg16", "--sweep", "bandwidth=1..1e300"),
]  # fmt: skip


@pytest.mark.alone
def test_bad_values_end_real_processes(tmp_path: Path) -> None:
    assert len(PROCESSES) >= 40
    prepared(tmp_path)
    (tmp_path / "latin1.json").write_bytes('{"graph": "gr\xfcn"}'.encode("latin-1"))

    def end(arguments: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "fogconv", *arguments]
        root = Path(__file__).resolve().parents[2]
        where = {**environment(), "PYTHONPATH": str(root), "XDG_CONFIG_HOME": str(tmp_path / "config")}
        return subprocess.run(
            command, cwd=tmp_path, env=where, capture_output=True, text=True, check=False, timeout=2 * HANG_S,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for arguments, done in zip(PROCESSES, pool.map(end, PROCESSES), strict=True):
            check(done.returncode, done.stdout, done.stderr, [text[:80] for text in arguments])
