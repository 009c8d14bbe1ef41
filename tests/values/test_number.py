"""Number: what is in its range is read and checked alike, and everything else is one sentence."""

from __future__ import annotations

import contextlib
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fogconv.errors import InputError, shown, visible
from fogconv.values import table
from fogconv.values.number import Number

KINDS = {name: kind for name, kind in vars(table).items() if isinstance(kind, Number)}


@pytest.mark.parametrize("name", KINDS)
def test_a_range_holds_its_ends_and_nothing_beyond(name: str) -> None:
    kind = KINDS[name]
    ends = (int(kind.least), int(kind.most)) if kind.whole else (kind.least, kind.most)
    for end in ends:
        kind.check("it", end)
        assert kind.read(repr(end)) == end
    beyond = (
        (ends[0] - 1, ends[1] + 1) if kind.whole else (math.nextafter(ends[0], -math.inf), math.nextafter(ends[1], math.inf))
    )
    for value in (*beyond, math.nan, -math.inf, True, "1", None, 10**5000):
        with pytest.raises(InputError, match=r"^it .*: it must be"):
            kind.check("it", value)
    if kind.endless:
        assert kind.read("inf") == math.inf
    else:
        for text in ("inf", "1e400"):
            with pytest.raises(InputError, match=f"^{text}: it must be"):
                kind.read(text)


@given(st.text() | st.from_regex(r"[+-]?[0-9]{0,30}\.?[0-9]{0,5}(e[+-]?[0-9]{1,4})?"), st.sampled_from(sorted(KINDS)))
def test_whatever_is_typed_is_a_number_of_the_kind_or_a_sentence(text: str, name: str) -> None:
    kind = KINDS[name]
    try:
        kind.check("it", kind.read(text))
    except InputError as error:
        assert str(error).isprintable() and "it must be a" in str(error)


@given(st.text(st.characters(codec=None), max_size=400))
def test_what_is_shown_is_printable_and_short(text: str) -> None:
    for made in (shown(text), visible(text)):
        assert made.isprintable()
        made.encode()
    assert len(shown(text)) < 1400
    with contextlib.suppress(ValueError):
        assert shown(int(text)) == str(int(text)) or len(text) > 100


def test_bytes_that_are_no_text_are_shown_as_bytes() -> None:
    assert visible(b"\xff\x1b[31m".decode("utf-8", "surrogateescape")) == r"\xff\x1b[31m"
    assert shown("nan") == "nan" and shown("a b") == "'a b'" and shown("") == "''"
    assert shown("9" * 5000).endswith("(5,000 characters)")
    assert shown(10**5000) == "a number of more than 120 digits"
