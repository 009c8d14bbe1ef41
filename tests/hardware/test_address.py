"""Addresses are read by one parser: what is one comes out canonical, and the rest is refused with one sentence."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fogconv.errors import InputError
from fogconv.hardware.address import Address, host_of, parse_address


@pytest.mark.parametrize(
    ("text", "address", "canonical"),
    [
        ("tcp://pi1:5555", Address("tcp", "pi1", 5555), "tcp://pi1:5555"),
        ("tcp://PI1.Local:05555", Address("tcp", "pi1.local", 5555), "tcp://pi1.local:5555"),
        ("tcp://10.0.0.7:1", Address("tcp", "10.0.0.7", 1), "tcp://10.0.0.7:1"),
        ("tcp://[FE80:0::1%eth0]:65535", Address("tcp", "fe80::1%eth0", 65535), "tcp://[fe80::1%eth0]:65535"),
        ("tcp://[::1]:5555", Address("tcp", "::1", 5555), "tcp://[::1]:5555"),
        ("tcp://bücher.local:5555", Address("tcp", "xn--bcher-kva.local", 5555), "tcp://xn--bcher-kva.local:5555"),
        ("ipc:///run/worker", Address("ipc", path="/run/worker"), "ipc:///run/worker"),
    ],
)
def test_an_address_comes_out_canonical(text: str, address: Address, canonical: str) -> None:
    assert parse_address(text) == address
    assert str(address) == canonical
    assert parse_address(canonical) == address


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("tcp://*:5555", Address("tcp", "*", 5555)),
        ("tcp://127.0.0.1:*", Address("tcp", "127.0.0.1", None)),
    ],
)
def test_a_star_is_for_listening_only(text: str, address: Address) -> None:
    assert parse_address(text, listening=True) == address
    assert str(address) == text
    with pytest.raises(InputError):
        parse_address(text)


BAD = {
    "": "no worker's address",
    "pi1:5555": "no worker's address",
    "http://pi1:80": "no worker's address",
    "tcp://": "no worker's address",
    "tcp://pi1": "no worker's address",
    "tcp://:5555": "no worker's address",
    "tcp://pi1:": "port must be a number",
    "tcp://pi1:0": "port must be a number",
    "tcp://pi1:65536": "port must be a number",
    "tcp://pi1:70000": "port must be a number",
    "tcp://pi1:²": "port must be a number",
    "tcp://pi1:" + 800 * "1": "port must be a number",
    "tcp://pi1:" + 5000 * "1": "at most 1024",
    "tcp://fe80::1:5555": "in brackets",
    "tcp://[fe80::1]": "no worker's address|port must be",
    "tcp://[10.0.0.1]:5555": "no IPv6 address",
    "tcp://[pi1]:5555": "no IPv6 address",
    "tcp://[fe80::1%a b]:5555": "no network interface",
    "tcp://10.0.0.256:5555": "four numbers",
    "tcp://1.2.3:5555": "four numbers",
    "tcp://0x7f.1:5555": "four numbers",
    "tcp://" + 254 * "a" + ":5555": "no host",
    "tcp://" + 64 * "a" + ":5555": "no host",
    "tcp://a..b:5555": "no host",
    "tcp://a b:5555": "no host",
    "tcp://-a:5555": "no host",
    "tcp://a/b:5555": "no host",
    "tcp://a;b:5555": "no host",
    "tcp://\udcff:5555": "no host",
    "tcp://\x1b[31m:5555": "no host|brackets",
    "tcp://pi1\n:5555": "no host",
    "ipc://": "no worker's address",
    "ipc://@fogconv": "any local user",
    "ipc://*": "name the socket's path",
    "ipc:///tmp/" + 103 * "a": "at most 107 bytes",
    "ipc:///tmp/\udcff": "not UTF-8",
    "ipc:///tmp/a\x00b": "can't be printed",
}


@pytest.mark.parametrize("listening", [False, True])
@pytest.mark.parametrize("text", BAD)
def test_what_is_no_address_is_refused_with_one_sentence(text: str, listening: bool) -> None:
    with pytest.raises(InputError, match=BAD[text]) as refused:
        parse_address(text, listening=listening)
    sentence = str(refused.value)
    assert len(sentence) < 400
    assert sentence.isprintable()
    sentence.encode()  # whatever the terminal's encoding does


@given(st.text(max_size=40), st.booleans())
def test_any_text_is_an_address_or_refused(rest: str, listening: bool) -> None:
    for scheme in ("tcp", "ipc"):
        try:
            found = parse_address(f"{scheme}://{rest}", listening=listening)
        except InputError:
            continue
        assert parse_address(str(found), listening=listening) == found


@pytest.mark.parametrize(
    ("text", "local"),
    [
        ("tcp://localhost:1", True),
        ("tcp://127.9.9.9:1", True),
        ("tcp://[::1]:1", True),
        ("tcp://localhost.com:1", False),
    ],
)
def test_loopback_is_known_by_its_number(text: str, local: bool) -> None:
    assert parse_address(text).local is local


def test_hosts_of_a_list_are_canonical_too() -> None:
    assert host_of("PI1") == "pi1"
    assert host_of("0:0::1") == "::1"
