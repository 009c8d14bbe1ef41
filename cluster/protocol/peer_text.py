"""Texts from peers: made printable before they are shown or logged.

A peer can choose its name freely: escape codes would move the cursor or change a title, line ends would forge lines of a
log. The codec cleans every text that it decodes, so that no code that prints can forget it. Code that prints with rich's
markup also has to escape square brackets.
"""

from __future__ import annotations

import msgspec

from fogconv.cluster.protocol import messages as m
from fogconv.errors import printable

MOST_OF_A_NAME = 100
MOST_OF_A_SENTENCE = 1000

FOR_PEOPLE: dict[type, dict[str, int]] = {
    m.Hello: {"name": MOST_OF_A_NAME},
    m.Welcome: {"host": MOST_OF_A_NAME, "isa": MOST_OF_A_NAME, "software": MOST_OF_A_NAME},
    m.Refused: {"reason": MOST_OF_A_SENTENCE},
    m.Failed: {"error": MOST_OF_A_NAME, "message": MOST_OF_A_SENTENCE},
    m.Status: {"state": MOST_OF_A_NAME, "master": MOST_OF_A_NAME},
}
"""The fields that are shown to people, and their maximal lengths in characters."""


def cleaned(message: m.AnyMessage) -> m.AnyMessage:
    """A message, its texts for people made printable."""
    limits = FOR_PEOPLE.get(type(message))
    if limits is None:
        return message
    given = {name: getattr(message, name) for name in limits}
    changed = {name: text for name, most in limits.items() if (text := printable(given[name], most)) != given[name]}
    return msgspec.structs.replace(message, **changed) if changed else message
