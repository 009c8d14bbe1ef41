"""Guards: extra work beside a layer's, so that wrong, late or missing pieces do no harm. Data only."""

from __future__ import annotations

from dataclasses import dataclass

from fogconv.values import table


@dataclass(frozen=True, slots=True)
class Protection:
    """The user's options: ``verify`` every piece, ``redundancy`` 0 or 1, ``patience`` a multiple of the predicted time
    (0: none). Raises InputError for numbers out of range."""

    verify: bool = False
    redundancy: int = 0
    patience: float = 0.0

    def __post_init__(self) -> None:
        table.REDUNDANCY.check("redundancy", self.redundancy)
        table.PATIENCE.check("patience", self.patience)

    def __bool__(self) -> bool:
        return self.verify or self.redundancy > 0 or self.patience > 0


@dataclass(frozen=True, slots=True)
class Guard:
    """The protection of one layer. ``code`` is the rank that computes the sum of the pieces."""

    verify: bool = False
    code: int | None = None
    patience_s: float = 0.0
