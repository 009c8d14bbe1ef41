"""Addresses: where a worker listens, as people write it. The only parser of addresses.

tcp://pi1:5555                a name, or an IPv4 address
tcp://[fe80::1%eth0]:5555     an IPv6 address in brackets, with its scope where it needs one
tcp://*:5555                  all of this machine's addresses; only to listen
ipc:///run/fogconv/worker     a Unix socket
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from fogconv.errors import InputError, quoted

MOST_CHARACTERS = 1024
"""Longer texts are no addresses."""
MOST_OF_A_NAME = 253
"""Characters of a host's name (RFC 1035)."""
MOST_OF_A_PATH = 107
"""Bytes of a Unix socket's path (sockaddr_un)."""
LAST_PORT = 65535
ANY = "*"
"""Every address of this machine, or any free port; only to listen."""

_NAME = re.compile(
    r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?(?:\.[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?)*\.?"
)
_DIGITS_ONLY = re.compile(r"[0-9.]+|0[xX][0-9a-fA-F.xX]*")


@dataclass(frozen=True, slots=True)
class Address:
    """One address in its canonical form: names in lower case, numbers in their shortest form.

    ``host`` is a name, a number (IPv6 without brackets) or "*"; ``port`` is None where any free one will do. A Unix socket
    has a ``path`` instead.
    """

    scheme: str
    host: str = ""
    port: int | None = None
    path: str = ""

    def __str__(self) -> str:
        if self.scheme != "tcp":
            return f"{self.scheme}://{self.path}"
        return f"tcp://{self.host_port}"

    @property
    def host_port(self) -> str:
        """As in a list of keys: "pi1:5555", "[fe80::1]:5555"."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{ANY if self.port is None else self.port}"

    @property
    def number(self) -> bool:
        """Whether the host is a number already, so that no name has to be resolved."""
        return is_number(self.host)

    @property
    def local(self) -> bool:
        """Whether it can be reached from this machine only: loopback, or a Unix socket."""
        if self.scheme != "tcp":
            return self.scheme in ("ipc", "inproc")
        return ipaddress.ip_address(self.host).is_loopback if self.number else self.host == "localhost"

    def at(self, number: str) -> Address:
        """The same port at a number, such as one that the name stands for."""
        return Address(self.scheme, number, self.port)


def is_number(host: str) -> bool:
    """Whether a host is an IPv4 or an IPv6 address."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def split_scheme(text: str) -> tuple[str, str]:
    """ "tcp" and the rest of "tcp://pi1:5555"; an empty scheme where there is none, as in a hostfile's path."""
    scheme, separator, rest = text.partition("://")
    return (scheme, rest) if separator else ("", text)


def parse_address(text: str, *, listening: bool = False) -> Address:
    """The address that a text gives. ``listening``: as a worker's own, where ``*`` is allowed as host and as port.

    Raises InputError with one sentence for whatever is none: a wrong port, a host that can't be one, an abstract socket.
    """
    scheme, rest = split_scheme(text)
    if len(text) > MOST_CHARACTERS:
        raise InputError(f"an address of {len(text)} characters ({quoted(text)}); it has at most {MOST_CHARACTERS}")
    if scheme == "tcp":
        return _tcp(text, rest, listening)
    if scheme == "ipc":
        return _ipc(text, rest)
    raise InputError(f"{quoted(text)} is no worker's address; write tcp://HOST:PORT or ipc://PATH")


def host_of(name: str) -> str:
    """A host in its canonical form. Raises InputError for one that is neither a name nor a number."""
    if is_number(name):
        return str(ipaddress.ip_address(name))
    try:
        plain = name if name.isascii() else name.encode("idna").decode("ascii")
    except UnicodeError:
        plain = ""
    if len(plain) > MOST_OF_A_NAME or not _NAME.fullmatch(plain):
        raise InputError(
            f"{quoted(name)} is no host: a name has letters, digits, '-' and '.', at most {MOST_OF_A_NAME} characters"
        )
    if _DIGITS_ONLY.fullmatch(plain):
        raise InputError(f"{quoted(name)} is no host: an IPv4 address has four numbers from 0 to 255")
    return plain.lower()


def _tcp(text: str, rest: str, listening: bool) -> Address:
    host, colon, port = rest.rpartition(":")
    form = "tcp://HOST:PORT (IPv6: tcp://[HOST]:PORT)"
    if not colon or not host.strip("[]"):
        raise InputError(f"{quoted(text)} is no worker's address; write {form}")
    number = _port(text, port, listening)
    bracketed = host.startswith("[") and host.endswith("]")
    if ":" in host and not bracketed:
        raise InputError(f"{quoted(text)}: an IPv6 host stands in brackets: tcp://[{quoted(host)[1:-1]}]:{number or ANY}")
    if bracketed:
        return Address("tcp", _ipv6(text, host[1:-1]), number)
    if host == ANY:
        if not listening:
            raise InputError(f"{quoted(text)}: '*' is where a worker listens; name the host to reach it at")
        return Address("tcp", ANY, number)
    try:
        return Address("tcp", host_of(host), number)
    except InputError as error:
        raise InputError(f"{quoted(text)}: {error}") from None


def _ipv6(text: str, host: str) -> str:
    try:
        number = ipaddress.IPv6Address(host)
    except ValueError:
        raise InputError(f"{quoted(text)}: {quoted(host)} is no IPv6 address") from None
    scope = number.scope_id
    if scope is not None and not re.fullmatch(r"[A-Za-z0-9_.-]{1,15}", scope):
        raise InputError(f"{quoted(text)}: {quoted(scope)} is no network interface") from None
    return str(number)


def _port(text: str, port: str, listening: bool) -> int | None:
    if listening and port == ANY:
        return None
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and 0 < int(port) <= LAST_PORT):
        free = ", or * for any free one" if listening else ""
        raise InputError(f"{quoted(text)}: the port must be a number from 1 to {LAST_PORT}{free}")
    return int(port)


def _ipc(text: str, path: str) -> Address:
    if not path:
        raise InputError(f"{quoted(text)} is no worker's address; write ipc://PATH")
    if path.startswith("@"):
        raise InputError(
            f"{quoted(text)}: an abstract socket has no permissions, so any local user could use it; write ipc://PATH"
        )
    if path == ANY:
        raise InputError(f"{quoted(text)}: name the socket's path; write ipc://PATH")
    try:
        size = len(path.encode())
    except UnicodeEncodeError:
        raise InputError(f"{quoted(text)}: the path is not UTF-8") from None
    if not path.isprintable():
        raise InputError(f"{quoted(text)}: the path has characters that can't be printed")
    if size > MOST_OF_A_PATH:
        raise InputError(f"{quoted(text)}: a Unix socket's path has at most {MOST_OF_A_PATH} bytes; this one has {size}")
    return Address("ipc", path=path)
