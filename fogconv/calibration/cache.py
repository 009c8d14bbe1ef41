"""Cache: what was measured of devices and of links, remembered for a week, one small file each.

    rates   per device: the computer, its processor, the threads, the share of the machine (cores, quota, ranks beside it),
            the instruction set, the kernels
    link    per pair of devices and way of talking

Rates that were measured beside other work are kept as such, and measured again at the next occasion.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, TypeVar

import msgspec

from fogconv.cluster.protocol.messages import Machine
from fogconv.errors import FogconvError
from fogconv.hardware.profile import Profile, ProfileDevice, ProfileLink
from fogconv.ir.memory.algorithm import Vectors
from fogconv.ir.precision.elements import Element
from fogconv.storage.cache_folder import cache_folder
from fogconv.storage.trusted import own_folder, read_own, write_own

CACHE_VERSION = 6
CACHE_AGE_S = 7 * 86400.0
"""After this long everything is measured again: cables, chargers and heat change."""

Origin = Literal["measured", "runs"]
"""Measured for itself, or corrected by what inferences took."""


class Worker(Protocol):
    """What a session knows of a worker."""

    @property
    def rank(self) -> int: ...
    @property
    def address(self) -> str: ...
    @property
    def host(self) -> str: ...
    @property
    def threads(self) -> int: ...
    @property
    def memory_limit_bytes(self) -> int: ...
    @property
    def isa(self) -> str: ...
    @property
    def software(self) -> str: ...
    @property
    def machine(self) -> Machine: ...
    @property
    def kernels(self) -> str: ...
    @property
    def multiplies(self) -> tuple[Element, ...]: ...
    @property
    def vectors(self) -> Vectors | None: ...


@dataclass(frozen=True, slots=True)
class Master:
    """Rank 0, described as its workers are."""

    host: str
    threads: int
    isa: str
    software: str
    machine: Machine
    kernels: str
    rank: int = 0
    address: str = ""
    memory_limit_bytes: int = 0
    multiplies: tuple[Element, ...] = ()
    vectors: Vectors | None = None


class KnownRates(msgspec.Struct, frozen=True):
    """A device, and how its rates were found. ``measured_at``: seconds since 1970.

    ``spread``: how much longer the mean run took than the fastest (0.1: a tenth). ``other_cores``: how many of its cores
    other processes kept busy meanwhile. ``disturbed``: by these two the rates are those of a device that does other work.
    """

    version: int
    measured_at: float
    device: ProfileDevice
    spread: float
    other_cores: float
    disturbed: bool
    ranks_here: int
    origin: Origin = "measured"


class KnownLink(msgspec.Struct, frozen=True):
    """Both directions of a link, and what a message takes of the master's processor over it.

    ``disturbed``: inferences found it slower since.
    """

    version: int
    measured_at: float
    there: ProfileLink[int]
    back: ProfileLink[int]
    message_s: float
    send_s_per_byte: float
    receive_s_per_byte: float
    disturbed: bool = False


Known = TypeVar("Known", KnownRates, KnownLink)


def default_folder() -> Path | None:
    """Where measured rates are kept unless another folder is named; None where this user has no folder for caches."""
    folder = cache_folder()
    return None if folder is None else folder / "calibration"


def device_key(worker: Worker | Master, ranks_here: int) -> str:
    """Two devices of one key compute alike. ``ranks_here``: the session's ranks on this machine, itself included."""
    machine = worker.machine
    share = f"{worker.threads} of {len(machine.cpus)} cores, quota {machine.quota_cores:g}, {ranks_here} ranks"
    instructions = "+".join((worker.isa, *worker.multiplies))
    return f"device {machine.device or worker.host}: {share}; {instructions} {worker.kernels} {worker.software}"


def link_key(scheme: str, worker: Worker, master: str, device: str) -> str:
    """``master`` and ``device`` are device keys. Addresses in a process or of MPI name ranks, and no way to a device."""
    address = worker.address if scheme in ("tcp", "ipc") else ""
    return f"link {scheme} {address} from {master} to {device}"


def recall(folder: Path | None, key: str, kind: type[Known]) -> Known | None:
    """What is known under a key, if it is sound and not too old."""
    return None if folder is None or not _trusted(folder) else _read(_path(folder, key), kind)


def remember(folder: Path | None, key: str, known: KnownRates | KnownLink) -> None:
    if folder is None or not _trusted(folder):
        return
    with contextlib.suppress(OSError):
        # Several masters may write at once: each writes its own file and renames it atomically.
        write_own(_path(folder, key), msgspec.json.encode(known))


def remembered_rates(folder: Path | None) -> Iterator[KnownRates]:
    """All devices whose rates are remembered, the latest first."""
    if folder is None or not folder.is_dir() or not _trusted(folder):
        return
    found = [known for path in folder.glob("rates-*.json") if (known := _read(path, KnownRates)) is not None]
    yield from sorted(found, key=lambda known: -known.measured_at)


def _path(folder: Path, key: str) -> Path:
    kind = "rates" if key.startswith("device") else "link"
    return folder / f"{kind}-{hashlib.sha256(key.encode()).hexdigest()[:24]}.json"


def _read(path: Path, kind: type[Known]) -> Known | None:
    try:
        known = msgspec.json.decode(read_own(path), type=kind)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    fresh = known.version == CACHE_VERSION and 0 <= time.time() - known.measured_at < CACHE_AGE_S
    return known if fresh and _sound(known) else None


def _sound(known: KnownRates | KnownLink) -> bool:
    """Whether a topology could be made with it."""
    if isinstance(known, KnownRates):
        profile = Profile(1, (known.device,), ())
    else:
        device = ProfileDevice("", {"default": 1.0}, message_s=known.message_s, send_s_per_byte=known.send_s_per_byte)
        there, back = (msgspec.structs.replace(link, origin=o, to=1 - o) for o, link in enumerate((known.there, known.back)))
        profile = Profile(1, (device, device), (there, back))
    try:
        profile.topology()
    except FogconvError:
        return False
    return True


def _trusted(folder: Path) -> bool:
    return own_folder(folder, "measured rates")
