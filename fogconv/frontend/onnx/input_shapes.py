"""Input shapes: every size of an ONNX model's inputs, where the file leaves some of them open."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from onnx import GraphProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from fogconv.errors import ModelError, quoted

MOST_SHRUNK = 128
"""The largest multiple that a frame's sides are rounded up to."""


@dataclass(frozen=True)
class Entry:
    """An input: its name, its shape, and its elements' type as ONNX numbers them."""

    name: str
    shape: tuple[int, ...]
    kind: int


def entries_of(
    name: str,
    graph: GraphProto,
    entries: Sequence[ValueInfoProto],
    *,
    size: tuple[int, int] | None,
    frame: tuple[int, int] | None,
    batch: int,
    shapes: Mapping[str | int, tuple[int, ...]],
) -> tuple[tuple[Entry, ...], int]:
    """The inputs, the pictures first, and the multiple that the frame's open sides were rounded up to, 0 where they were
    not. See `fogconv.frontend.onnx.model_file.read_model`."""
    pictures = next((entry for entry in entries if _is_picture(entry)), entries[0] if entries else None)
    if pictures is None or not graph.output:
        raise ModelError(f"{name} has {len(entries)} inputs and {len(graph.output)} outputs: there is nothing to run")
    multiple = 0
    if size is None and frame is not None and _is_picture(pictures) and not _fixed(pictures):
        multiple = shrinks(graph, pictures.name)
        frame = (-(-frame[0] // multiple) * multiple, -(-frame[1] // multiple) * multiple)
    first = Entry(pictures.name, _picture_shape(name, pictures, size, frame, batch), TensorProto.FLOAT)
    known = dict(_named_sizes(pictures, first.shape))
    others = []
    for number, entry in enumerate((each for each in entries if each is not pictures), 1):
        shape = _other_shape(name, entry, known, batch, shapes.get(entry.name, shapes.get(number)))
        others.append(Entry(entry.name, shape, entry.type.tensor_type.elem_type))
    return (first, *others), multiple


def shrinks(graph: GraphProto, pictures: str) -> int:
    """By how much the net makes its pictures smaller at most, often 32: of pictures whose sides are multiples of it, every
    map can be made smaller, and larger again, without a remainder."""
    weights = {tensor.name: tensor for tensor in graph.initializer}
    scale = {pictures: Fraction(1)}
    for node in graph.node:
        found = [scale[source] for source in node.input if source in scale]
        if found:
            scale |= dict.fromkeys(node.output, max(found) * _factor(node, weights))
    return max(1, min(int(max(scale.values())), MOST_SHRUNK))


def _factor(node: NodeProto, weights: Mapping[str, TensorProto]) -> Fraction:
    """By how much a node's result is lower than what it reads."""
    attributes = {each.name: helper.get_attribute_value(each) for each in node.attribute}
    stride = Fraction((attributes.get("strides") or [1])[0])
    if node.op_type in ("Conv", "MaxPool", "AveragePool"):
        return stride
    if node.op_type == "ConvTranspose":
        return 1 / stride
    if node.op_type in ("Resize", "Upsample"):
        for source in node.input[1:]:
            values = numpy_helper.to_array(weights[source]).ravel() if source in weights else None
            if values is not None and len(values) == 4 and values.dtype.kind == "f":
                return 1 / Fraction(float(values[2])).limit_denominator(64)
        return Fraction(1, 2)  # computed, most often by doubling or to the size of another map
    return Fraction(1)


def _fixed(entry: ValueInfoProto) -> bool:
    return all(dim.dim_value > 0 for dim in entry.type.tensor_type.shape.dim[2:])


def _is_picture(entry: ValueInfoProto) -> bool:
    kind = entry.type.tensor_type
    return entry.type.HasField("tensor_type") and kind.elem_type == TensorProto.FLOAT and len(kind.shape.dim) == 4


def _named_sizes(entry: ValueInfoProto, shape: tuple[int, ...]) -> Iterator[tuple[str, int]]:
    for dim, size in zip(entry.type.tensor_type.shape.dim, shape, strict=True):
        if dim.dim_param:
            yield dim.dim_param, size


def _other_shape(
    name: str, entry: ValueInfoProto, known: Mapping[str, int], batch: int, wanted: tuple[int, ...] | None
) -> tuple[int, ...]:
    """The shape of an input beside the pictures. A size that the file leaves open is that of a given array, or has the name
    of one of the pictures' sizes, or is the batch, where it is the first."""
    if not entry.type.HasField("tensor_type"):
        raise ModelError(f"{name}: its input {quoted(entry.name)} is not a tensor")
    dims = entry.type.tensor_type.shape.dim
    if wanted is not None and len(wanted) != len(dims):
        raise ModelError(f"{name}: its input {quoted(entry.name)} has {len(dims)} axes, not the {len(wanted)} of {wanted}")
    shape = []
    for axis, dim in enumerate(dims):
        fixed = dim.dim_value if dim.HasField("dim_value") and dim.dim_value > 0 else known.get(dim.dim_param)
        if fixed is None:
            fixed = wanted[axis] if wanted is not None else batch if axis == 0 else None
        if fixed is None or (wanted is not None and wanted[axis] != fixed):
            has = "leaves its size open: give the input" if fixed is None else f"is {fixed} on axis {axis}, not {wanted}"
            raise ModelError(f"{name}: its input {quoted(entry.name)} {has}")
        shape.append(fixed)
    return tuple(shape)


def _picture_shape(
    name: str, entry: ValueInfoProto, size: Sequence[int] | None, frame: Sequence[int] | None, batch: int
) -> tuple[int, ...]:
    kind = entry.type.tensor_type
    dims = [dim.dim_value if dim.HasField("dim_value") and dim.dim_value > 0 else None for dim in kind.shape.dim]
    if not entry.type.HasField("tensor_type") or len(dims) not in (3, 4):
        raise ModelError(f"{name}: its input {quoted(entry.name)} is not a batch of pictures (N, C, H, W) or of (N, C, L)")
    if kind.elem_type != TensorProto.FLOAT:
        wrong = TensorProto.DataType.Name(kind.elem_type).lower()
        raise ModelError(f"{name}: its input {quoted(entry.name)} is {wrong}; fogconv runs models in float (fp32)")
    images, channels, *sides = dims
    if images not in (None, batch):
        raise ModelError(f"{name} takes {images} images at once, not {batch}")
    if channels is None:
        raise ModelError(f"{name}: the channels of its input {quoted(entry.name)} are not fixed")
    if len(sides) == 1:
        if sides[0] is None:
            raise ModelError(f"{name}: the length of its input {quoted(entry.name)} is not fixed")
        return (batch, channels, sides[0])
    if size is None and None in sides:
        if frame is None:
            raise ModelError(f"{name} takes pictures of any size; say which with --size (or size=)")
        size = [given if side is None else side for given, side in zip(frame, sides, strict=True)]
    for side, wanted in zip(sides, size or sides, strict=True):
        if side is not None and side != wanted:
            raise ModelError(f"{name} takes {sides[0]}×{sides[1]} pixels, not {size[0]}×{size[1]}" if size else name)
    height, width = size or sides
    assert height is not None and width is not None
    return (batch, channels, height, width)
