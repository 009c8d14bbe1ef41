"""Fuzzer: what lies in a cache is what was put there, or it is made anew; nothing of others is unpickled.

    python -m tests.kernels.fuzz_cache CORPUS -max_total_time=60

The first byte of an input says which file it is (a compiled function, tuned choices, what was measured of a device) and how
it lies there: as it should, or where others could have written it. Of a compiled function that is sealed and this user's own
only the beginning of an honest one is tried: what is changed in code that runs is past helping.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import random
import shutil
import sys
import time
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
from numba import types

from fogconv.calibration import cache as pairs
from fogconv.calibration.cache import CACHE_VERSION, NOWHERE, CachedPair, master_key, remembered_device
from fogconv.hardware.profile import ProfileDevice
from fogconv.ir.geometry import ConvSpec
from fogconv.kernels.codegen import jit as compiled
from fogconv.kernels.codegen.isa import host_isa
from fogconv.kernels.conv import tuning_table
from fogconv.kernels.conv.select import candidates, choose
from fogconv.storage import trusted
from tests import fuzzers
from tests.fuzzers import Target, changed_json, scrambled, scratch
from tests.strangers import STRANGER

KINDS = ("compiled", "tuned", "measured")
WAYS = ("as it is", "sealed", "group", "all", "stranger", "link", "pipe", "folder", "strange folder", "open folder")
OTHERS = frozenset(("group", "all", "stranger", "link", "strange folder", "open folder"))
"""Somebody else could have put it there."""
MARK = "fogconv_canary"
SPEC = ConvSpec(64, 64, 56, 56, (3, 3), padding=(1, 1, 1, 1))
SIGNATURE = (types.int64,)
ROOT = os.geteuid() == 0


class Canary:
    """Leaves a mark where it is unpickled."""

    def __reduce__(self) -> tuple[object, ...]:
        return exec, (f"import sys; sys.{MARK} = 1",)


def one_input(data: bytes) -> None:
    if not data:
        return
    kind, way = KINDS[data[0] % len(KINDS)], WAYS[data[0] // len(KINDS) % len(WAYS)]
    content = data[1:]
    if kind == "compiled" and way == "sealed":
        payload = _compiled_file()[1][32:]
        content = _sealed(payload[: int.from_bytes(content[:4], "little") % len(payload)])
    elif kind == "compiled" and way in OTHERS:
        content = _sealed(pickle.dumps(Canary()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        believed = _arrange(way, _file(kind), content)
        {"compiled": _load, "tuned": _choose, "measured": _remember}[kind](believed)
    assert not hasattr(sys, MARK), f"somebody else's code ran: {way}"


def _load(believed: bool) -> None:
    dispatcher = _function()
    found = dispatcher._cache.load_overload(SIGNATURE, dispatcher.targetctx)
    assert found is None or believed, "a file that others could have written was run"


def _choose(believed: bool) -> None:
    tuning_table._table.cache_clear()
    assert tuning_table.tuned_algorithm(SPEC, host_isa()) is None or believed
    assert choose(SPEC, host_isa(), strict=False) in candidates(SPEC, host_isa())


def _remember(believed: bool) -> None:
    found = remembered_device(_folder())
    assert found is None or (believed and found.gamma_s_per_mac["default"] > 0)


def _arrange(way: str, file: Path, content: bytes) -> bool:
    """Lay a file there; whether it may be believed."""
    _folder()
    for each in (scratch() / "cache", scratch() / "elsewhere"):
        shutil.rmtree(each, ignore_errors=True)
        each.mkdir(mode=0o700)
    file.write_bytes(content)
    file.chmod(0o600)
    compiled._cache_folder.cache_clear()
    trusted.warn_once.cache_clear()
    match way:
        case "group":
            file.chmod(0o620)
        case "all":
            file.chmod(0o602)
        case "stranger" if ROOT:
            os.chown(file, STRANGER, STRANGER)
        case "link":
            elsewhere = scratch() / "elsewhere" / file.name
            file.rename(elsewhere)
            file.symlink_to(elsewhere)
        case "pipe":
            file.unlink()
            os.mkfifo(file, 0o600)
        case "folder":
            file.unlink()
            file.mkdir(0o700)
        case "strange folder" if ROOT:
            os.chown(file.parent, STRANGER, STRANGER)
        case "open folder":
            file.parent.chmod(0o777)
        case _:
            return way not in OTHERS
    return False


@cache
def _folder() -> Path:
    folder = scratch() / "cache"
    folder.mkdir(mode=0o700, exist_ok=True)
    os.environ["FOGCONV_CACHE_DIR"] = str(folder)
    return folder


def _file(kind: str) -> Path:
    match kind:
        case "compiled":
            return _compiled_file()[0]
        case "tuned":
            return tuning_table._file(_folder(), host_isa())
        case _:
            return pairs._path(_folder(), master_key())


def _function() -> Any:
    """Compiled anew each time, as in a new process."""

    @compiled.jit
    def tripled(a):  # type: ignore[no-untyped-def]
        return 3 * a

    return tripled


@cache
def _compiled_file() -> tuple[Path, bytes]:
    """Where the function above is stored, and the honest content."""
    folder = _folder()
    _function().compile(SIGNATURE)
    (file,) = folder.glob("*.nbc")
    return file, file.read_bytes()


def _sealed(payload: bytes) -> bytes:
    return hashlib.sha256(payload).digest() + payload


@cache
def seeds() -> dict[str, bytes]:
    device = ProfileDevice("pi", {"default": 1e-9, "direct": 2e-9})
    measured = CachedPair(CACHE_VERSION, time.time(), device, NOWHERE, NOWHERE)
    contents = {
        "compiled": _compiled_file()[1],
        "tuned": ('{"' + tuning_table.key(SPEC) + '": "winograd2"}').encode(),
        "measured": msgspec.json.encode(measured),
    }
    found = {
        f"{kind}_{way.replace(' ', '_')}": bytes([KINDS.index(kind) + len(KINDS) * number]) + contents[kind]
        for kind in KINDS
        for number, way in enumerate(WAYS)
    }
    found["compiled_sealed_cut"] = bytes([len(KINDS)]) + (100).to_bytes(4, "little")
    return found


def changed(data: bytes, generator: random.Random) -> bytes:
    if not data or generator.random() < 0.2:
        return bytes([generator.randrange(len(KINDS) * len(WAYS))]) + data[1:]
    change = scrambled if KINDS[data[0] % len(KINDS)] == "compiled" else changed_json
    return data[:1] + change(data[1:], generator)


TARGET = Target(one_input, seeds, changed, watched=(tuning_table, pairs, trusted))

if __name__ == "__main__":
    fuzzers.main(TARGET)
