"""Elements: what maps and weights consist of.

    fp32    the real number itself
    fp16    the nearest of 16 bits: 11 significant ones, up to 65504
    bf16    the nearest of 16 bits: 8 significant ones, as far as fp32
    uint8   real = scale · (q − zero), one scale and one zero for the whole map
    int32   the sums of an 8-bit conv before they are rescaled: summands of one output on several ranks, exact

Weights of 8-bit convs are int8, −127 to 127, with one scale per output channel; their biases are int32, in the unit of the
sums: the input's scale · the weight's. Weights of 16-bit convs are of 16 bits, too, or of fp32 (depthwise ones'); their
biases and their sums are of fp32.
NumPy has no bf16: its arrays hold the bits, as uint16.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from numpy.typing import NDArray

Element = Literal["fp32", "fp16", "bf16", "uint8", "int32"]

ELEMENT_BYTES: dict[Element, int] = {"fp32": 4, "fp16": 2, "bf16": 2, "uint8": 1, "int32": 4}

Half = Literal["fp16", "bf16"]

HALVES: tuple[Half, ...] = ("fp16", "bf16")
"""The elements of 16 bits."""

REALS: tuple[Element, ...] = ("fp32", *HALVES)
"""Those that are the number itself, or the nearest."""

WeightType = Literal["float32", "int8", "int32", "uint8", "float16", "uint16"]
"""What a weight consists of, by NumPy's name."""

WEIGHT_BYTES: dict[WeightType, int] = {"float32": 4, "int8": 1, "int32": 4, "uint8": 1, "float16": 2, "uint16": 2}

WEIGHTS_OF: dict[Element, WeightType] = {"fp32": "float32", "fp16": "float16", "bf16": "uint16", "uint8": "int8"}
"""What the weights of a conv consist of that reads such maps."""


def element_of(array: NDArray[Any]) -> Element:
    """What an array of a map, or of weights, in fp32 or 16 bits consists of. Raises StopIteration for others."""
    found = array.dtype.name
    return next(element for element in REALS if WEIGHTS_OF[element] == found)


def weight_type(array: NDArray[Any]) -> WeightType:
    """Of an array. Raises StopIteration for one that is no weight."""
    found = array.dtype.name
    return next(name for name in WEIGHT_BYTES if name == found)
