"""Elements: what maps and weights consist of.

    fp32    the real number itself
    uint8   real = scale · (q − zero), one scale and one zero for the whole map
    int32   the sums of an 8-bit conv before they are rescaled: summands of one output on several ranks, exact

Weights of 8-bit convs are int8, −127 to 127, with one scale per output channel; their biases are int32, in the unit of the
sums: the input's scale · the weight's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from numpy.typing import NDArray

Element = Literal["fp32", "uint8", "int32"]

ELEMENT_BYTES: dict[Element, int] = {"fp32": 4, "uint8": 1, "int32": 4}

WeightType = Literal["float32", "int8", "int32", "uint8"]
"""What a weight consists of, by NumPy's name."""

WEIGHT_BYTES: dict[WeightType, int] = {"float32": 4, "int8": 1, "int32": 4, "uint8": 1}


def weight_type(array: NDArray[Any]) -> WeightType:
    """Of an array. Raises StopIteration for one that is no weight."""
    found = array.dtype.name
    return next(name for name in WEIGHT_BYTES if name == found)
