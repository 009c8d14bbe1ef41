"""Messages of errors: whatever a file or a peer put into them, they are one line that a terminal can show."""

from __future__ import annotations

import pytest

from fogconv.errors import MOST_OF_A_MESSAGE, FogconvError, InputError, WorkerLostError, printable


def test_a_message_is_one_line_without_control_characters() -> None:
    assert str(InputError("device '\x1b[2J\n\r\x00' is not known")) == "device '\\x1b[2J\\n\\r\\x00' is not known"
    assert str(WorkerLostError("γ of „größer“ → 0", 3)) == "γ of „größer“ → 0"
    assert str(FogconvError("\ud800")) == "\\ud800"
    assert str(FogconvError()) == ""
    assert str(InputError("x.pt2 is no program: Saved archive version \n")) == "x.pt2 is no program: Saved archive version"


def test_a_long_message_keeps_its_ends() -> None:
    text = str(InputError(f"name {'x' * 10_000} is not known; did you mean x?"))
    assert len(text) == MOST_OF_A_MESSAGE
    assert text.startswith("name xxx") and text.endswith("x is not known; did you mean x?") and "…" in text


@pytest.mark.parametrize("most", [1, 5, 10])
def test_printable_keeps_to_its_limit(most: int) -> None:
    assert len(printable("a" * 11, most)) == most
    assert printable("a" * most, most) == "a" * most
