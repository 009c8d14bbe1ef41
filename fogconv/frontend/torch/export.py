"""export: convert a torch model to a LayerGraph.

    module ──torch.export──▶ ATen program ──rules──▶ layers and host operations ──group, fuse──▶ LayerGraph

The program comes from torch.export (non-strict), whose operations are ATen's. Batch norm is folded into the conv before it,
activations and residual sums are merged (`fogconv.frontend.fusion`), and operations without a rule in
`fogconv.frontend.torch.rules` run in torch on the master. The graph computes what the model computes in inference, for
inputs of the example's shape.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.utils._pytree as pytree
from torch import fx
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind

from fogconv.errors import ModelError
from fogconv.frontend.building.values import Const, Last, Padded
from fogconv.frontend.grouping import Ends, finished
from fogconv.frontend.quantized import absorb
from fogconv.frontend.torch.host_ops import functional, host_layer
from fogconv.frontend.torch.rules import RULES
from fogconv.frontend.torch.translate import Translator, op_name
from fogconv.ir.graph import LayerGraph, Port, Structure


def export(model: torch.nn.Module, example: torch.Tensor | tuple[torch.Tensor, ...], name: str) -> LayerGraph:
    """The LayerGraph of a model, for inputs like ``example``: (N, C, H, W), or several inputs of which that is the first.

    The model is exported in inference mode; its own mode is restored. A float64 model gives a graph with float64 weights,
    for comparisons; everything else must be float32. Raises ModelError for a model that can't be exported.
    """
    given = example if isinstance(example, tuple) else (example,)
    try:
        with _inference(model), torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.export(model, given, strict=False)
    except Exception as error:  # torch.export raises many types of errors for models that it can't capture
        first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ModelError(
            f"{name}: torch.export can't capture this model for an input of {tuple(given[0].shape)}: {first}"
        ) from error
    return from_exported(program, name)


def from_exported(program: ExportedProgram, name: str) -> LayerGraph:
    """The LayerGraph of an exported program (a ``.pt2`` file) with static shapes, whose first input is (N, C, H, W)."""
    program = _without_mutation(program)
    nodes = list(program.graph.nodes)
    constants, entries = _inputs(program, name)
    fake = entries[0].meta["val"]
    if fake.ndim not in (3, 4) or not all(isinstance(size, int) for size in fake.shape):
        raise ModelError(
            f"{name}: its input is {tuple(fake.shape)}; fogconv takes programs whose first input is (N, C, H, W) or "
            "(N, C, L), of a fixed size"
        )
    if fake.dtype not in (torch.float32, torch.float64):
        raise ModelError(f"{name}: its input is {fake.dtype}; convert the model with .float() before exporting it")
    translator = Translator(int(fake.shape[0]), RULES, fake.dtype)
    for node, value in constants.items():
        translator.values[node] = Const(value)
    inputs = tuple(
        translator.take(
            entry,
            number,
            entry.name,
            _fixed(entry, name),
            str(entry.meta["val"].dtype).removeprefix("torch."),
            is_map=translator.could_be_map(entry, flat=number == 0),
        )
        for number, entry in enumerate(entries)
    )
    for node in nodes:
        if node.op == "get_attr":
            translator.values[node] = Const(_attribute(program, str(node.target)))
        elif node.op == "call_function" and (node.users or node.meta.get("val") is not None):
            translator.visit(node)
    ends = _ends(translator, inputs, nodes[-1], program, name)
    dtype = np.float64 if translator.dtype == torch.float64 else np.float32
    info = {"torch": str(torch.__version__)}
    graph = finished(name, translator, lambda group: host_layer(group, translator), ends, dtype, info)
    return absorb.on_bytes(graph, lambda conv: translator.dequantized.of(graph.weights[conv.weight]))


@contextmanager
def _inference(model: torch.nn.Module) -> Iterator[None]:
    """eval() within the block, without calling eval(), which modules loaded from a .pt2 refuse."""
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _without_mutation(program: ExportedProgram) -> ExportedProgram:
    """The program itself if its in-place operations can be treated as copies, else the one functionalised by torch.

    Treating relu_ as relu is right where the overwritten value has no views and is not read later; that holds for all
    CNNs of torchvision. Functionalising them all by torch took as long again as the export.
    """
    position = {node: index for index, node in enumerate(program.graph.nodes)}
    for node in program.graph.nodes:
        schema = getattr(node.target, "_schema", None)
        if schema is None or not schema.is_mutable or op_name(node) == "dropout":
            continue
        victim = node.args[0] if node.args else None
        harmless = (
            isinstance(victim, fx.Node)
            and functional(node.target) is not None
            and victim.op == "call_function"
            and not _may_alias(victim)
            and all(user is node or (position[user] < position[node] and not _may_alias(user)) for user in victim.users)
        )
        if not harmless:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                decomposed: ExportedProgram = program.run_decompositions({})
            return decomposed
    return program


def _may_alias(node: fx.Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    if schema is None or op_name(node) in ("dropout", "feature_dropout", "alpha_dropout"):
        return True
    return any(result.alias_info is not None and not result.alias_info.is_write for result in schema.returns)


def _fixed(entry: fx.Node, name: str) -> tuple[int, ...]:
    shape = entry.meta["val"].shape
    if not all(isinstance(size, int) for size in shape):
        raise ModelError(f"{name}: its input {entry.name} is {tuple(shape)}; export it for a fixed size")
    return tuple(shape)


def _inputs(program: ExportedProgram, name: str) -> tuple[dict[fx.Node, Any], list[fx.Node]]:
    """The tensors behind the placeholders (weights, buffers, constants), and the placeholders that are inputs."""
    placeholders = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    constants: dict[fx.Node, Any] = {}
    entries: list[fx.Node] = []
    for spec in program.graph_signature.input_specs:
        node = placeholders[spec.arg.name]
        if spec.kind is InputKind.USER_INPUT:
            if isinstance(node.meta.get("val"), torch.Tensor):
                entries.append(node)
            continue
        target = str(spec.target)
        known = program.state_dict if target in program.state_dict else program.constants
        value = known[target]
        constants[node] = value.detach() if isinstance(value, torch.Tensor) else value
    if not entries:
        raise ModelError(f"{name}: it takes no input tensor")
    return constants, entries


def _attribute(program: ExportedProgram, target: str) -> Any:
    value: Any = program.graph_module
    for part in target.split("."):
        value = getattr(value, part)
    return value


def _ends(translator: Translator, inputs: tuple[Port, ...], node: fx.Node, program: ExportedProgram, name: str) -> Ends:
    """The ends of a program whose nodes are translated; ``node`` is its output."""
    signature, flat = program.module_call_graph[0].signature, node.args[0]
    assert signature is not None and isinstance(flat, Sequence)
    results = pytree.tree_unflatten(flat, signature.out_spec)
    found: list[fx.Node] = []
    ports: list[Port] = []

    def walk(result: Any, path: tuple[str, ...]) -> Structure:
        if result is None or not isinstance(result, fx.Node | Mapping | Sequence):
            return result  # numbers and words of the model's own
        if isinstance(result, Mapping):
            return {key: walk(inner, (*path, str(key))) for key, inner in result.items()}
        if isinstance(result, Sequence):
            return tuple(walk(inner, (*path, str(number))) for number, inner in enumerate(result))
        found.append(result)
        ports.append(_port(translator, result, ".".join(path) or "output", name))
        return len(ports) - 1

    structure = walk(results, ())
    if not ports:
        raise ModelError(f"{name}: it gives no tensor")
    return Ends(inputs, tuple(ports), tuple(found), structure)


def leaves(results: Any) -> list[torch.Tensor]:
    """The tensors among a model's results, in the order of its graph's outputs."""
    if isinstance(results, torch.Tensor):
        return [results]
    if isinstance(results, Mapping):
        results = list(results.values())
    return [leaf for inner in results for leaf in leaves(inner)] if isinstance(results, tuple | list) else []


def _port(translator: Translator, result: fx.Node, called: str, name: str) -> Port:
    value, fake = translator.values[result], result.meta["val"]
    if isinstance(value, Const):
        raise ModelError(f"{name}: its output {called} is a constant")
    if isinstance(value, Padded | Last):
        translator.host(result)
    sizes = tuple(fake.shape)
    shape = sizes if all(isinstance(size, int) for size in sizes) else None
    if shape is not None and 0 in shape:
        raise ModelError(f"{name}: its output {called}, of shape {shape}, is empty")
    return translator.result(result, called, shape)
