"""Choices on the command line: enums, so that ``--help`` lists them and the error for a wrong one names the possible
ones."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import cast


class Switch(StrEnum):
    ON = "on"
    OFF = "off"

    def __bool__(self) -> bool:
        return self is Switch.ON


def choice(title: str, names: Iterable[str]) -> type[StrEnum]:
    """An enum of the names of another module's table."""
    members = [(name, name) for name in names]
    return cast("type[StrEnum]", StrEnum(title, members))
