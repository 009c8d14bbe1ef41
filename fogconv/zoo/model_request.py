"""ModelRequest: which model, with which weights, for pictures of which size."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ModelRequest:
    """A model as a user names it, see `fogconv.zoo.load`. ``size`` in pixels; ``trust`` is for a ``.pt2`` that runs code."""

    name: str
    weights: str = "pretrained"
    size: int | tuple[int, int] | None = None
    trust: bool = False

    @classmethod
    def for_shapes(cls, name: str, size: int | None = None, trust: bool = False) -> ModelRequest:
        """The request of who needs shapes only: no published weights are fetched."""
        return cls(name, "pretrained" if name.endswith(".pt2") else "random", size, trust)
