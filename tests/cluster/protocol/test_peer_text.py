"""Texts from peers reach people only as one short printable line."""

from __future__ import annotations

import typing

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fogconv.cluster.protocol import codec
from fogconv.cluster.protocol import messages as m
from fogconv.cluster.protocol.peer_text import FOR_PEOPLE
from fogconv.errors import printable

NASTY = "\x1b]0;title\x07\x1b[31m[/oops]\r\nforged: line\u202e\x00\x9b" + "é" * 4000


@given(st.text())
def test_any_text_becomes_one_printable_line(text: str) -> None:
    shown = printable(text, 80)
    assert shown.isprintable()
    assert len(shown) <= 80
    assert printable(shown, 80) == shown
    if text.isprintable() and len(text) <= 80:
        assert shown == text


@pytest.mark.parametrize(
    "message",
    [
        m.Hello(bytes(16), 1, 2, NASTY, 1.0),
        m.Welcome(1, NASTY, 1, 1, 0, 0, NASTY, NASTY, m.Machine(), ""),
        m.Refused(NASTY),
        m.Failed(1, 0, NASTY, NASTY),
    ],
)
def test_what_is_decoded_can_be_printed(message: m.AnyMessage) -> None:
    decoded, _ = codec.decode(codec.encode(message))
    for name, most in FOR_PEOPLE[type(message)].items():
        text = getattr(decoded, name)
        assert text.isprintable()
        assert len(text) <= most
        assert text.startswith(r"\x1b]0;title\x07\x1b[31m[/oops]\r\nforged: line\u202e")


def test_every_text_that_a_message_carries_is_thought_of() -> None:
    """Addresses are checked where they are used."""
    for kind in m.KINDS:
        types = typing.get_type_hints(kind, include_extras=True)
        texts = {field.name for field in msgspec.structs.fields(kind) if types[field.name] == m.Text}
        assert texts <= set(FOR_PEOPLE.get(kind, {})), kind


def test_complaints_about_malformed_messages_are_printable() -> None:
    frame = codec.encode(m.Refused("x"))[0][:8] + msgspec.msgpack.encode([{NASTY: 1}])
    with pytest.raises(codec.WireError) as caught:
        codec.decode([frame])
    assert str(caught.value).isprintable()
