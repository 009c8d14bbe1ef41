"""Ports: what a caller gives becomes the arrays that programs take, and what they return becomes the model's results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fogconv.errors import InputError, shown
from fogconv.ir.arrays import Array
from fogconv.ir.graph import LayerGraph, Port, Structure

Given = Any
"""An array, or for a model with several inputs a sequence of them in the model's order, or a mapping by their names."""

Results = Any
"""Arrays, nested as the model nests its results: one array, a tuple or a dict."""


def arrays_of(graph: LayerGraph, given: Given) -> list[Array]:
    """The model's inputs in their order, checked and in its types. Raises InputError."""
    ports = graph.inputs
    names = ", ".join(port.name for port in ports)
    if isinstance(given, Mapping):
        unknown = [name for name in given if name not in {port.name for port in ports}]
        missing = [port.name for port in ports if port.name not in given]
        if unknown or missing:
            wrong = f"no {missing[0]}" if missing else f"{shown(str(unknown[0]))}"
            raise InputError(f"the inputs of {graph.name} are {names}; there is {wrong} among those given")
        values = [given[port.name] for port in ports]
    elif isinstance(given, Sequence):
        values = list(given)
    else:
        values = [given]
    if len(values) != len(ports):
        many = "1 input" if len(ports) == 1 else f"{len(ports)} inputs"
        raise InputError(f"{graph.name} takes {many} ({names}), not {len(values)}")
    return [_array(graph, port, value) for port, value in zip(ports, values, strict=True)]


def _array(graph: LayerGraph, port: Port, value: Any) -> Array:
    """Of an array, a tensor, or numbers in lists. Numbers of another type are converted as numpy does."""
    try:
        found = np.asarray(_from_torch(value) if hasattr(value, "detach") else value)
    except (TypeError, ValueError):  # lists of unlike lengths, and objects that refuse
        found = np.asarray(None)
    if found.dtype.kind not in "biuf":
        kind = f"{type(value).__name__} of {found.dtype}"
        raise InputError(f"the input {port.name!r} must be an array of real numbers, and is {kind}")
    array: Array = np.array(found, port.dtype, copy=None, order="C")
    if array.shape != port.shape:
        raise InputError(f"the input {port.name!r} has the shape {array.shape}; the model was compiled for {port.shape}")
    return array if port.tensor is None else array.reshape(graph.tensors[port.tensor].shape)


def _from_torch(tensor: Any) -> Array:
    value = tensor.detach().cpu()
    two_bytes = value.is_floating_point() and value.element_size() == 2
    array: Array = (value.float() if two_bytes else value).numpy()  # numpy has no bfloat16
    return array


def named(graph: LayerGraph, outputs: Sequence[Array]) -> dict[str, Array]:
    """A run's outputs by name, each in the model's own shape; maps as float32."""
    return {port.name: _shaped(port, output) for port, output in zip(graph.outputs, outputs, strict=True)}


def _shaped(port: Port, output: Array) -> Array:
    if port.tensor is None:
        return np.asarray(output)
    assert port.shape is not None
    return np.asarray(output, np.float32).reshape(port.shape)


def nested(structure: Structure, outputs: Sequence[Any]) -> Results:
    """Outputs, nested as the model nests its results."""
    if isinstance(structure, Mapping):
        return {key: nested(inner, outputs) for key, inner in structure.items()}
    if isinstance(structure, tuple):
        return tuple(nested(inner, outputs) for inner in structure)
    return outputs[structure] if isinstance(structure, int) else structure


def results_of(graph: LayerGraph, outputs: Mapping[str, Any]) -> Results:
    """Outputs by name, nested as the model nests its results."""
    return nested(graph.structure, [outputs[port.name] for port in graph.outputs])
