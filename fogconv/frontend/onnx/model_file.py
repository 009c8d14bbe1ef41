"""Model file: an ``.onnx`` file, checked, and with every size of its input fixed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx.external_data_helper
import onnx.inliner
from google.protobuf.message import DecodeError
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto

from fogconv.errors import ModelError, quoted
from fogconv.storage.trusted import open_plain

OLDEST_OPSET = 9
DOMAINS = ("", "ai.onnx", "com.microsoft")
"""Operators of other domains are known to neither fogconv nor ONNX Runtime."""


@dataclass(frozen=True)
class ModelFile:
    """``input`` and ``output`` are names of values; ``shape`` is the input's, (N, C, H, W)."""

    proto: ModelProto
    input: str
    shape: tuple[int, int, int, int]
    output: str


def read_model(
    path: str | Path, *, size: tuple[int, int] | None = None, batch: int = 1, states_size: bool = True
) -> ModelFile:
    """An ONNX model with one input (N, C, H, W) and one output. ``size`` is (H, W) in pixels, where the file leaves it open.
    With ``states_size`` False it does so although it has figures: those of an example.

    Raises ModelError: it can't be read, uses what neither fogconv nor ONNX Runtime knows, or takes another input.
    """
    proto = _loaded(Path(path))
    if not states_size:
        _forget_sizes(proto)
    name = quoted(str(path))
    newest = onnx.defs.onnx_opset_version()
    opset = next((each.version for each in proto.opset_import if each.domain in ("", "ai.onnx")), 0)
    if not OLDEST_OPSET <= opset <= newest:
        raise ModelError(f"{name} has opset {opset}; fogconv reads opset {OLDEST_OPSET} to {newest}")
    proto = onnx.inliner.inline_local_functions(proto)
    for node in proto.graph.node:
        official = node.domain in ("", "ai.onnx")
        if node.domain not in DOMAINS or (official and not onnx.defs.has(node.op_type)):
            what = f"{node.op_type} of the domain {quoted(node.domain)}"
            raise ModelError(f"{name}: node {quoted(node.name)} is {what}, which fogconv does not know")
    given = {tensor.name for tensor in proto.graph.initializer}
    entries = [value for value in proto.graph.input if value.name not in given]
    if len(entries) != 1 or len(proto.graph.output) != 1:
        ends = f"{len(entries)} inputs and {len(proto.graph.output)} outputs"
        raise ModelError(f"{name} has {ends}; fogconv runs ONNX models with one input and one output")
    shape = _fixed_shape(name, entries[0], size, batch)
    return ModelFile(proto, entries[0].name, shape, proto.graph.output[0].name)


def characters(model: ModelFile) -> tuple[str, ...]:
    """Those that a recogniser of text was trained for, which PaddlePaddle's exports carry; else none."""
    lines = next((each.value for each in model.proto.metadata_props if each.key == "character"), "")
    return tuple(lines.splitlines())


def free_names(node: NodeProto) -> Iterator[str]:
    """What a node reads: its inputs, and what the bodies of its branches and loops read from outside of them."""
    yield from (name for name in node.input if name)
    for attribute in node.attribute:
        for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
            inside = {value.name for value in (*graph.input, *graph.initializer)}
            for each in graph.node:
                yield from (name for name in free_names(each) if name not in inside)
                inside.update(each.output)
            yield from (value.name for value in graph.output if value.name not in inside)


def _loaded(path: Path) -> ModelProto:
    try:
        with open_plain(path) as file:
            proto: ModelProto = ModelProto.FromString(file.read())
    except FileNotFoundError:
        raise ModelError(f"there is no file {quoted(str(path))}") from None
    except OSError as error:
        raise ModelError(f"{quoted(str(path))} can't be read: {error.strerror or error}") from error
    except DecodeError:
        raise ModelError(f"{quoted(str(path))} is no ONNX file, or it is damaged") from None
    if not proto.graph.node or not proto.opset_import:
        raise ModelError(f"{quoted(str(path))} is no ONNX model: it has no graph")
    try:
        onnx.external_data_helper.load_external_data_for_model(proto, str(path.parent))
    except (OSError, ValueError, RuntimeError, onnx.checker.ValidationError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(f"{quoted(str(path))} keeps its weights in other files, which can't be read: {first}") from error
    return proto


def _forget_sizes(proto: ModelProto) -> None:
    """Leave the batch and the sides of inputs and outputs open, and what follows from them."""
    del proto.graph.value_info[:]
    given = {tensor.name for tensor in proto.graph.initializer}
    for value in (*proto.graph.input, *proto.graph.output):
        if value.name not in given:
            for number, dim in enumerate(value.type.tensor_type.shape.dim):
                if number != 1:
                    dim.Clear()


def _fixed_shape(name: str, entry: ValueInfoProto, size: tuple[int, int] | None, batch: int) -> tuple[int, int, int, int]:
    kind = entry.type.tensor_type
    dims = [dim.dim_value if dim.HasField("dim_value") and dim.dim_value > 0 else None for dim in kind.shape.dim]
    if not entry.type.HasField("tensor_type") or len(dims) != 4:
        raise ModelError(f"{name}: its input {quoted(entry.name)} is not a batch of pictures (N, C, H, W)")
    if kind.elem_type != TensorProto.FLOAT:
        wrong = TensorProto.DataType.Name(kind.elem_type).lower()
        raise ModelError(f"{name}: its input {quoted(entry.name)} is {wrong}; fogconv runs models in float (fp32)")
    images, channels, *sides = dims
    if images not in (None, batch):
        raise ModelError(f"{name} takes {images} images at once, not {batch}")
    if channels is None:
        raise ModelError(f"{name}: the channels of its input {quoted(entry.name)} are not fixed")
    if size is None and None in sides:
        raise ModelError(f"{name} takes pictures of any size; say which with --size (or size=)")
    for side, wanted in zip(sides, size or sides, strict=True):
        if side is not None and side != wanted:
            raise ModelError(f"{name} takes {sides[0]}×{sides[1]} pixels, not {size[0]}×{size[1]}" if size else name)
    height, width = size or sides
    assert height is not None and width is not None
    return (batch, channels, height, width)
