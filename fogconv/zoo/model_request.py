"""ModelRequest: which model, with which weights, for pictures of which size."""

from __future__ import annotations

from dataclasses import dataclass

from fogconv.values import table


def check_size(size: int | tuple[int, int] | None) -> None:
    """Raises InputError for a side that no picture may have."""
    if size is not None:
        for side in size if isinstance(size, tuple) and len(size) == 2 else (size,):
            table.SIDE.check("size", side)


def is_model_file(name: str) -> bool:
    """Whether it names a file, which contains its own weights, and not a model of the zoo."""
    return name.endswith((".pt2", ".onnx"))


@dataclass(frozen=True, slots=True)
class ModelRequest:
    """A model as a user names it, see `fogconv.zoo.load`; or an ``.onnx`` file. ``size`` in pixels; ``trust`` is for a
    ``.pt2`` that runs code; ``shapes`` are those of several inputs, by name or number.

    Raises InputError for a size that is out of range.
    """

    name: str
    weights: str = "pretrained"
    size: int | tuple[int, int] | None = None
    trust: bool = False
    shapes: tuple[tuple[str | int, tuple[int, ...]], ...] = ()

    def __post_init__(self) -> None:
        check_size(self.size)

    @classmethod
    def for_shapes(cls, name: str, size: int | tuple[int, int] | None = None, trust: bool = False) -> ModelRequest:
        """The request for shapes only: no published weights are downloaded."""
        # Late: options are read by every command, and most of them need no NumPy.
        from fogconv.zoo.wheels.registry import is_wheel_onnx

        own = is_model_file(name) or is_wheel_onnx(name)
        return cls(name, "pretrained" if own else "random", size, trust)
