"""Fuzzer: a ``.pt2`` file is a model, or a sentence, and nothing in it runs.

    python -m tests.zoo.fuzz_exported CORPUS -max_total_time=60

An input is an archive. Most changes put a canary somewhere: a pickle, or a text that torch might evaluate, which leaves a
mark when it runs. Besides, nothing may start a process, open a socket or load a library.
"""

from __future__ import annotations

import io
import json
import pickle
import random
import sys
import warnings
import zipfile
import zlib
from functools import cache
from typing import Any

import torch
from torch import nn

from fogconv.zoo import exported, models
from fogconv.zoo.models import load_model
from tests import fuzzers
from tests.fuzzers import ODD, Target, in_a_sentence, scrambled, scratch

MARK = "fogconv_canary"
CODE = f"__import__('sys').__dict__.__setitem__('{MARK}', 1)"
TEXTS = (CODE, f"({CODE})", f"x={CODE}", f"Add({CODE!r}, 1)", f"s0\n{CODE}", f"f'{{{CODE}}}'", f"[{CODE} for _ in [0]]")
FORBIDDEN = ("os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen", "socket.connect", "ctypes.dlopen")
PICKLED = ("data/weights/weight_0", "data/constants/tensor_0", "data/sample_inputs/model.pt", "data/weights/model.pt")
NAMES = (
    *PICKLED, "data/constants/custom_obj_0", "data/constants/opaque_obj_0", "data/aotinductor/model/a.so",
    "models/model.json", "archive_format", "version", "byteorder", ".data/serialization_id", "extra/code.py",
    "../escaped", "data.pkl", "code/a.py",
)  # fmt: skip
_forbidden: list[str] = []


class Canary:
    """Leaves a mark where it is unpickled."""

    def __reduce__(self) -> tuple[object, ...]:
        return exec, (CODE,)


class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.register_buffer("offset", torch.ones(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x).mean((2, 3)) + self.offset * torch.tensor([1.0, 2.0, 3.0, 4.0])


def one_input(data: bytes) -> None:
    _watch()
    file = scratch() / "model.pt2"
    file.write_bytes(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with in_a_sentence():
            model = load_model(str(file))
            if max(model.input_size) <= 64:
                with torch.inference_mode():
                    _computed(model.module, model.example())
    assert not hasattr(sys, MARK), "code of the file ran"
    assert not _forbidden, _forbidden


def _computed(module: nn.Module, x: torch.Tensor) -> None:
    """What was loaded is a program of torch's operators; what these think of changed sizes is theirs to say."""
    try:
        module(x)
    except (RuntimeError, TypeError, ValueError, IndexError, AssertionError, AttributeError, NotImplementedError, KeyError):
        return


@cache
def _watch() -> None:
    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if event.startswith(FORBIDDEN):
            _forbidden.append(f"{event} {arguments}")

    load_model(str(_whole()))  # what torch imports on first use
    sys.addaudithook(hook)


@cache
def _whole() -> Any:
    file = scratch() / "whole.pt2"
    dynamic = ({0: torch.export.Dim("batch", min=1, max=64)},)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(Tiny().eval(), (torch.zeros(2, 3, 20, 30),), dynamic_shapes=dynamic, strict=False)
        torch.export.save(program, file)
    return file


def saved(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


@cache
def seeds() -> dict[str, bytes]:
    whole = _whole().read_bytes()
    found = {"whole": whole, "nothing": b"", "no_archive": b"PK\3\4" + bytes(40)}
    entries = unpacked(whole)
    for number, name in enumerate(NAMES):
        for form, content in (("pickle", pickle.dumps(Canary())), ("saved", saved({"x": Canary()}))):
            found[f"canary_{form}_{number}"] = packed({**entries, name: content})
    return found


def unpacked(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}


def packed(entries: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in entries.items():
            archive.writestr(zipfile.ZipInfo(f"model/{name}"), content)
    return buffer.getvalue()


def changed(data: bytes, generator: random.Random) -> bytes:
    """An entry of the archive changed by its kind, left out, renamed, or a canary in its place."""
    try:
        entries = unpacked(data)
        name = generator.choice(list(entries))
    except (zipfile.BadZipFile, zlib.error, ValueError, IndexError, RuntimeError, OSError, EOFError, KeyError):
        return scrambled(data, generator)
    if generator.random() < 0.4:
        name = generator.choice([each for each in entries if each.endswith(".json")] or [name])
    content = entries[name]
    canary = generator.choice((pickle.dumps(Canary()), saved(Canary()), saved({"x": Canary()}), pickle.dumps(Canary(), 0)))
    match generator.randrange(8):
        case 0:
            del entries[name]
        case 1:
            entries[generator.choice(NAMES)] = canary
        case 2:
            entries[name] = canary
        case 3:
            entries[generator.choice(NAMES)] = entries.pop(name)
        case 4 if not name.endswith(".json"):
            entries[name] = scrambled(content, generator)
        case _:
            try:
                tree = json.loads(content)
            except ValueError:
                entries[name] = scrambled(content, generator)
            else:
                odd = (*ODD, *TEXTS * 8, "weight_0", "model.pt", True, {"as_expr": {"expr_str": CODE}})
                if name.endswith("config.json") and generator.random() < 0.5:
                    _all_pickled(tree)
                entries[name] = json.dumps(fuzzers.changed(tree, generator, odd)).encode("utf-8", "surrogatepass")
    return packed(entries)


def _all_pickled(tree: Any) -> None:
    config = tree.get("config") if isinstance(tree, dict) else None
    for entry in config.values() if isinstance(config, dict) else ():
        if isinstance(entry, dict):
            entry["use_pickle"] = True


TARGET = Target(one_input, seeds, changed, watched=(exported, models))

if __name__ == "__main__":
    fuzzers.main(TARGET)
