"""Model file: an ``.onnx`` file, checked, and with every size of its input fixed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx.external_data_helper
import onnx.inliner
from google.protobuf.message import DecodeError
from onnx import ModelProto, NodeProto

from fogconv.errors import ModelError, quoted
from fogconv.frontend.onnx.input_shapes import Entry, entries_of
from fogconv.storage.trusted import open_plain
from fogconv.zoo.card import seeded

OLDEST_OPSET = 9
WEIGHTS = "fogconv.weights"
"""The property of a file in which `fogconv.frontend.onnx.write` says that its weights are seeded ones."""
DOMAINS = ("", "ai.onnx", "com.microsoft")
"""Operators of other domains are known to neither fogconv nor ONNX Runtime."""


@dataclass(frozen=True)
class ModelFile:
    """``inputs`` in the file's order, the first that is a batch of pictures (N, C, H, W) before the others; ``outputs`` are
    names of values. ``multiple``: what a frame's sides were rounded up to; 0 where they were not."""

    proto: ModelProto
    inputs: tuple[Entry, ...]
    outputs: tuple[str, ...]
    multiple: int = 0

    @property
    def shape(self) -> tuple[int, ...]:
        """The pictures', (N, C, H, W); of a model of sequences theirs, (N, C, L)."""
        return self.inputs[0].shape


def read_model(
    path: str | Path,
    *,
    size: tuple[int, int] | None = None,
    batch: int = 1,
    shapes: Mapping[str | int, tuple[int, ...]] | None = None,
    frame: tuple[int, int] | None = None,
    states_size: bool = True,
) -> ModelFile:
    """An ONNX model, one of whose inputs is a batch of pictures (N, C, H, W). ``size`` is (H, W) in pixels, where the file
    leaves it open; without one it is that of ``frame``, rounded up to multiples that the net halves evenly. ``shapes`` are
    those of other inputs, by name or number. With ``states_size`` False the sizes in the file are those of an example.

    Raises ModelError: it can't be read, uses what neither fogconv nor ONNX Runtime knows, or takes no pictures.
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
    inputs, multiple = entries_of(name, proto.graph, entries, size=size, frame=frame, batch=batch, shapes=shapes or {})
    return ModelFile(proto, inputs, tuple(value.name for value in proto.graph.output), multiple)


def seeded_origin(model: ModelFile) -> str:
    """What the file says about its weights where they are seeded ones; else nothing."""
    return seeded(next((each.value for each in model.proto.metadata_props if each.key == WEIGHTS), ""))


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
