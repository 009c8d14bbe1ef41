"""Keys: who may connect to whom on ZeroMQ (CURVE, 256-bit Curve25519 keys in z85, 40 characters).

    FOLDER/key        this device's key pair, mode 0600
    FOLDER/key.pub    its public key, to be copied to others
    FOLDER/masters    on a worker: the public keys of the masters that it serves, one a line
    FOLDER/workers    on a master: "HOST KEY" or "HOST:PORT KEY" or "* KEY" a line, the workers that it trusts

``#`` begins a comment line. A worker accepts listed masters, and the other workers that its master names for the session.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path

from platformdirs import user_config_path

from fogconv.errors import InputError
from fogconv.hardware.address import parse_address, split_scheme
from fogconv.storage.trusted import distrust, read_own, write_own

KEY_CHARACTERS = 40
_Z85 = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"
_GROUP = 5
"""So many characters hold four bytes, and could hold a little more."""


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A device's keys in z85."""

    public: str
    secret: str = field(repr=False)

    @staticmethod
    def generate() -> KeyPair:
        import zmq  # imported late: `fogconv --help` reads this module

        public, secret = zmq.curve_keypair()
        return KeyPair(public.decode(), secret.decode())


@dataclass(frozen=True, slots=True)
class Keys:
    """A device's keys: its own pair, the masters it serves, the workers it trusts (by host, host:port or "*")."""

    own: KeyPair
    masters: frozenset[str] = frozenset()
    workers: Mapping[str, str] = field(default_factory=dict)

    def of_worker(self, address: str) -> str:
        """The public key that the worker at an address must have. Raises InputError if none is listed."""
        _, host_port = split_scheme(address)
        parsed = parse_address(address)
        for name in (host_port, parsed.host_port, host_port.rpartition(":")[0].strip("[]"), parsed.host, "*"):
            if name in self.workers:
                return self.workers[name]
        raise InputError(
            f"no key is listed for the worker at {address}: add a line '{host_port} KEY' to the file 'workers' beside "
            "your key (KEY is in key.pub on that device), or go without with --insecure"
        )


def default_folder() -> Path:
    """The default key folder, such as ~/.config/fogconv."""
    return user_config_path("fogconv")


def write_keys(folder: Path) -> KeyPair:
    """Make a key pair in a folder; the secret is for its owner only (mode 0600). Raises InputError if there is one."""
    _make(folder)
    pair = KeyPair.generate()
    try:
        # O_EXCL follows no link either.
        handle = os.open(folder / "key", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except FileExistsError as error:
        raise InputError(
            f"{folder / 'key'} exists already; to replace it, remove it, then update every list that names it"
        ) from error
    except OSError as error:
        raise InputError(f"{folder / 'key'} can't be written: {error.strerror}") from error
    with os.fdopen(handle, "w") as file:
        file.write(f"# fogconv's secret key of this device: keep it secret\n{pair.public}\n{pair.secret}\n")
    try:
        write_own(folder / "key.pub", f"{pair.public}\n".encode())
        (folder / "key.pub").chmod(0o644)
    except OSError as error:
        raise InputError(f"{folder / 'key.pub'} can't be written: {error.strerror}") from error
    return pair


def _make(folder: Path) -> None:
    try:
        _require_trusted(folder)
        if folder.is_symlink():
            raise InputError(f"{folder} is a link; name the folder itself, {folder.resolve()}")
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        _require_trusted(folder)
    except OSError as error:
        raise InputError(f"the key folder {folder} can't be made: {error.strerror or error}") from error


def _require_trusted(path: Path) -> None:
    """A user who can write a list of masters can become one, and a user who can write a key knows it."""
    complaint = distrust(path)
    if complaint is not None:
        raise InputError(f"{complaint}: keys are only read where no other user can write")


def read_keys(folder: Path) -> Keys:
    """The keys in a folder. Raises InputError for a missing or malformed file, for a folder or file that other users own
    or can write, and for a secret that they can read."""
    path = folder / "key"
    lines = _lines(path, f"no key in {folder}: make one with fogconv keygen, or go without with --insecure", secret=True)
    if len(lines) != 2:
        raise InputError(f"{path} must hold a public and a secret key, one a line; it holds {len(lines)} lines")
    own = KeyPair(*(_key(text, f"{path}, line {number}") for number, text in lines))
    import zmq

    if zmq.curve_public(own.secret.encode()).decode() != own.public:
        raise InputError(f"{path}: the two keys do not belong together")
    masters = frozenset(_key(text, f"{folder / 'masters'}, line {number}") for number, text in _lines(folder / "masters"))
    workers = {}
    for number, text in _lines(folder / "workers"):
        at = f"{folder / 'workers'}, line {number}"
        name, _, key = text.partition(" ")
        if not key:
            raise InputError(f"{at}: write HOST KEY, HOST:PORT KEY or * KEY")
        workers[name] = _key(key.strip(), at)
    return Keys(own, masters, workers)


def is_local(address: str) -> bool:
    """Whether an address can be reached from this machine only: loopback, or ipc."""
    return parse_address(address, listening=True).local


def keys_for(addresses: Sequence[str], keys: Keys | Path | None, insecure: bool) -> Keys | None:
    """The keys to use with these addresses; None where all are on this machine, or ``insecure``. Raises InputError."""
    if isinstance(keys, Keys):
        return keys
    if keys is not None:
        return read_keys(keys)
    if insecure or all(is_local(address) for address in addresses):
        return None
    return read_keys(default_folder())


def _lines(path: Path, complaint: str = "", *, secret: bool = False) -> list[tuple[int, str]]:
    try:
        # A link of this user is followed, and its target is checked as well.
        _require_trusted(path.parent)
        _require_trusted(path)
        text = read_own(path.resolve(), secret=secret).decode("utf-8")
    except FileNotFoundError as error:
        if complaint:
            raise InputError(complaint) from error
        return []
    except PermissionError as error:
        told = error.strerror if error.errno == errno.EPERM else f"can't be read: {error.strerror}"
        raise InputError(f"{path} {told}") from error
    except OSError as error:
        raise InputError(f"{path} can't be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} can't be read: {error}") from error
    numbered = enumerate((line.strip() for line in text.splitlines()), start=1)
    # A z85 key may start with "#" as well, so a comment is recognised by the space after it.
    return [(number, line) for number, line in numbered if line and line != "#" and not line.startswith("# ")]


def _key(text: str, where: str) -> str:
    if len(text) != KEY_CHARACTERS or not set(text) <= set(_Z85) or not _fits(text):
        raise InputError(f"{where}: this is not a key; a key has {KEY_CHARACTERS} characters (z85)")
    return text


def _fits(text: str) -> bool:
    """Whether each group of z85 is a number of four bytes: ZeroMQ takes no other."""
    digits = [_Z85.index(character) for character in text]
    groups = (digits[start : start + _GROUP] for start in range(0, len(digits), _GROUP))
    return all(reduce(lambda number, digit: number * len(_Z85) + digit, group) < 1 << 32 for group in groups)
