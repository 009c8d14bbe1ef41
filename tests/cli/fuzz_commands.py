"""Fuzzer: commands by table. Whatever is typed, a command ends by itself, with an exit code that means something.

    python -m tests.cli.fuzz_commands CORPUS -max_total_time=60

An input is a seed: the first byte is the command, the others choose options from the command's own list, and their values
from those of their kind, most of them bad. Commands run in this process, in a folder with files of every kind. An exit code
of 0 to 3 or 130 is right, a traceback is not, nor an error without a sentence on stderr. A worker, which would serve for
ever, is ended by SIGTERM after a moment, `status` asks once.
"""

from __future__ import annotations

import contextlib
import io
import os
import random
import shutil
import signal
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import typer
from PIL import Image
from torch import nn

from fogconv.cli import app, run_job
from fogconv.cli.app import COMMANDS, application
from fogconv.cli.options import hardware, plan
from fogconv.cluster.executor.executors import executor
from fogconv.hardware import units
from tests import fuzzers
from tests.fuzzers import Target, scrambled, scratch

TRIED = tuple(name for name in COMMANDS if name not in ("bench", "calibrate", "doctor", "warm"))
"""These measure, compile, or look at the whole machine, which takes many seconds."""
CODES = frozenset((0, 1, 2, 3, 130))
SERVED_S = 0.5
NUMBERS = (
    "0", "1", "2", "3", "-1", "-5", "nan", "inf", "-inf", "1e9", "1e300", "1e-320", "0.5", "1e999", "9" * 400, "9" * 5000,
    "", " ", "x", "0x10", "1_0", "Ⅷ", "٣", "1000000", "65535", "65536", "2147483648", "18446744073709551616", "true",
    "--", "1,2",
)  # fmt: skip
WORDS = (
    "", " ", "x", "[/oops]", "\x1b[31m", "é" * 300, "n" * 300, "~nosuchuser", "~", "a\nb", "\udcff", "channels:",
    "channels:2", "channels:-1", "both", "bound", "auto", "rows", "star", "fp16", "lossless", "1,1,0.5", "0.4,0.5,0.6",
    "nan,nan,nan", "3x4", "0x2", "1x0", "10GFLOP/s", "100Mbit/s", "0.5ms", "1e-320GFLOP/s", "900M", "1K",
    "bandwidth=10Mbit..10Gbit", "rate=1..0", "same", "14x28", "1x1x1", "%s", "{}", "*", "pi4", "resnet18", "random",
    "pretrained", "on", "off",
)  # fmt: skip
ADDRESSES = (
    "inproc://0", "inproc://1", "inproc://2", "inproc://-1", "inproc://x", "inproc://99999999", "tcp://127.0.0.1:1",
    "tcp://127.0.0.1", "tcp://:1", "tcp://127.0.0.1:0", "tcp://127.0.0.1:65536", "tcp://127.0.0.1:*", "tcp://[::1]:1",
    "tcp://[::1", "tcp://\udcff:1", "tcp://x@127.0.0.1:1", "ipc://socket", "ipc://", "ipc://@x", "ipc://" + "n" * 300,
    "http://127.0.0.1:1", "://", "hostfile", "tcp://127.0.0.1:1,tcp://127.0.0.1:1", ",", "pi1",
)  # fmt: skip
FILES = (
    "none", "folder", "empty", "noise", "picture.png", "model.pt2", "hostfile", "plan.json", "profile.json", "new.json",
    "new.png", "new.svg", "keys", "link", "ring", "locked/x", "folder/../new.json", "/dev/null", "/dev/zero", "/dev/full",
    "/proc/self/mem", "/proc/x", "pipe", ".", "/", "n" * 300, "a\nb", "\udcff.json",
)  # fmt: skip
MODELS = ("picture.png", "none.pt2", "folder", "resnet81", "", "n" * 300)
PIPES = frozenset(("--out", "-o", "--trace", "--plot"))
"""What writes into a pipe waits for who reads it, as all programs do."""


def one_input(data: bytes) -> None:
    arguments = argv(data)
    with _in_folder():
        begin = time.monotonic()
        code, output, errors = run(arguments)
        told = f"{arguments} → {code} in {time.monotonic() - begin:.1f} s\n{output[-500:]}\n{errors[-1500:]}"
        assert code in CODES, told
        assert "Traceback (most recent call last)" not in errors, told
        assert code in (0, 1, 130) or errors.strip(), told
        assert "\x1b[31m" not in output + errors, told


def argv(data: bytes) -> list[str]:
    """The command line that an input stands for."""
    generator = random.Random(data[1:])
    name = TRIED[data[0] % len(TRIED)] if data else "keygen"
    known = _options(name)
    arguments = [name]
    for option in known:
        if option.param_type_name == "argument" and (generator.random() < 0.95 or name == "choose"):
            arguments.append(_value(option, generator))
    options = [option for option in known if option.param_type_name == "option"]
    for option in generator.sample(options, min(len(options), generator.choice((0, 1, 1, 1, 2, 2, 3, 5)))):
        flag = generator.choice([*option.opts, *option.secondary_opts])
        arguments += [flag] if option.is_flag else [flag, _value(option, generator)]
    if name == "status" and "--once" not in arguments:
        arguments.append("--once")
    return arguments


@cache
def _options(name: str) -> tuple[Any, ...]:
    whole: Any = typer.main.get_command(application([name]))
    return tuple(whole.commands[name].params)


def _value(option: Any, generator: random.Random) -> str:
    if option.name == "model":
        return generator.choice((*["model.pt2"] * 6, *MODELS))
    tables: list[tuple[str, ...]] = [NUMBERS, WORDS]
    kind = option.type_descriptor.annotation
    kind = kind if isinstance(kind, type) else str
    if issubclass(kind, Enum):
        tables = [tuple(str(each.value) for each in kind), WORDS]
    elif option.name in ("cluster", "bind"):
        tables = [ADDRESSES] * 4 + [FILES]
    elif option.name in ("image", "weights", "labels", "keys", "folder") or issubclass(kind, Path):
        files = tuple(file for file in FILES if file != "pipe" or not PIPES & set(option.opts))
        tables = [files] * 4 + [WORDS]
    elif issubclass(kind, int | float):
        tables = [NUMBERS] * 6 + [WORDS]
    return generator.choice(generator.choice(tables))


def run(arguments: list[str]) -> tuple[int, str, str]:
    """The exit code and the outputs of the program in this process."""
    out, errors = (io.TextIOWrapper(io.FileIO(scratch() / name, "w+"), errors="backslashreplace") for name in ("out", "err"))
    before = sys.argv, signal.getsignal(signal.SIGINT)
    # A worker minds SIGTERM once it serves; before that it is lost on this process.
    previous = signal.signal(signal.SIGTERM, lambda number, frame: None)
    over = threading.Event()
    ending = threading.Thread(target=_end, args=(over,))
    sys.argv = ["fogconv", *arguments]
    code: object = None
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if arguments[0] == "worker":
                ending.start()
            app.main()
    except SystemExit as leaving:
        code = leaving.code
    finally:
        over.set()
        if ending.ident is not None:
            ending.join()
        sys.argv = before[0]
        signal.signal(signal.SIGINT, before[1])
        signal.signal(signal.SIGTERM, previous)
    out.close()
    errors.close()
    output, told = ((scratch() / name).read_text("utf-8", "replace") for name in ("out", "err"))
    return code if isinstance(code, int) else int(code is not None), output, told


def _end(over: threading.Event) -> None:
    while not over.wait(SERVED_S):
        os.kill(os.getpid(), signal.SIGTERM)


@contextlib.contextmanager
def _in_folder() -> Iterator[None]:
    before = Path.cwd()
    os.chdir(_folder())
    try:
        yield
    finally:
        os.chdir(before)
        written = [
            *_folder().glob("new.*"),
            *(_folder() / "folder").glob("*"),
            Path.home() / ".config",
            _folder() / "socket",
        ]
        for each in written:
            if each.is_dir():
                shutil.rmtree(each)
            else:
                each.unlink(missing_ok=True)


@cache
def _folder() -> Path:
    folder = scratch() / "work"
    (folder / "folder").mkdir(parents=True)
    (folder / "empty").touch()
    (folder / "noise").write_bytes(random.Random(0).randbytes(5000))
    (folder / "hostfile").write_text("127.0.0.1\n")
    (folder / "link").symlink_to("noise")
    (folder / "ring").symlink_to("ring")
    os.mkfifo(folder / "pipe")
    Image.fromarray(np.full((40, 30, 3), 99, np.uint8)).save(folder / "picture.png")
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    torch.export.save(torch.export.export(module, (torch.zeros(1, 3, 20, 20),), strict=False), folder / "model.pt2")
    os.environ["HOME"] = str(scratch())
    executor()  # what is imported in the first run would count as its time
    return folder


@cache
def seeds() -> dict[str, bytes]:
    with _in_folder():  # what is compiled for the first run would count as its time
        run(["run", "model.pt2", "--image", "picture.png", "--stream", "2"])
    return {f"{name}_{n}": bytes([number, n]) for number, name in enumerate(TRIED) for n in range(4)}


def changed(data: bytes, generator: random.Random) -> bytes:
    return bytes([generator.randrange(len(TRIED))]) + scrambled(data[1:9], generator)[:8]


TARGET = Target(one_input, seeds, changed, watched=(hardware, plan, run_job, units), most_bytes=16, hang_s=120)

if __name__ == "__main__":
    fuzzers.main(TARGET)
