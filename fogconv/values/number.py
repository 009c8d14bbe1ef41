"""Number: one kind of number, with its unit, its range, and the error message for other values."""

from __future__ import annotations

import math
import numbers
import re
from dataclasses import dataclass
from typing import Any

from fogconv.errors import InputError, shown

_WHOLE = re.compile(r"[+-]?[0-9]{1,18}")
_REAL = re.compile(r"[+-]?([0-9]{1,40}\.?[0-9]{0,40}|\.[0-9]{1,40})([eE][+-]?[0-9]{1,3})?")
_ENDLESS = re.compile(r"\+?inf(inity)?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Number:
    """``unit`` is a plural noun ("seconds", "pixels"), empty for plain factors. The range includes both ends.
    ``endless``: infinity is allowed as well. ``note`` explains a special value.
    """

    unit: str
    least: float
    most: float
    whole: bool = False
    endless: bool = False
    note: str = ""

    @property
    def rule(self) -> str:
        """ "it must be a whole number of threads from 0 to 1024 (0: all cores)"."""
        what = ("a whole number" if self.whole else "a number") + (f" of {self.unit}" if self.unit else "")
        least, most = self._written(self.least), self._written(self.most)
        return (
            f"it must be {what} from {least} to {most}"
            + (", or inf" if self.endless else "")
            + (f" ({self.note})" * bool(self.note))
        )

    def check(self, name: str, value: object) -> None:
        """Check a value. Raises InputError, with the value's name, unless it is a number of this kind."""
        if not self._holds(value):
            raise InputError(f"{name} {shown(value)}: {self.rule}")

    def read(self, text: str) -> float:
        """Convert a text to a number; an int where the kind is whole. Raises InputError, without the option's name."""
        value = self._typed(text.strip())
        if value is None or not self._holds(value):
            raise InputError(f"{shown(text)}: {self.rule}")
        return value

    def _typed(self, text: str) -> float | None:
        if self.whole:
            return int(text) if _WHOLE.fullmatch(text) else None
        if _REAL.fullmatch(text):
            return float(text)
        return math.inf if _ENDLESS.fullmatch(text) else None

    def _holds(self, value: object) -> bool:
        kind = numbers.Integral if self.whole else numbers.Real
        if not isinstance(value, kind) or isinstance(value, bool):
            return False
        found: Any = value
        if self.endless and found == math.inf:
            return True
        return bool(self.least <= found <= self.most)

    def _written(self, value: float) -> str:
        if value == int(value) and abs(value) < 1e9:
            return str(int(value))
        return re.sub(r"e([+-])0*", lambda match: "e" + match[1].strip("+"), f"{value:g}")
