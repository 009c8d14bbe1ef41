"""export: convert a torch model to a LayerGraph.

    module ──torch.export──▶ ATen program ──rules──▶ layers and host operations ──group, fuse──▶ LayerGraph

The program comes from torch.export (non-strict), whose operations are ATen's. Batch norm is folded into the conv before it,
activations and residual sums are merged (`fogconv.frontend.fusion`), and operations without a rule in
`fogconv.frontend.torch.rules` run in torch on the master. The graph computes what the model computes in inference, for
inputs of the example's shape.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import fx
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind

from fogconv.errors import ModelError
from fogconv.frontend.graph_builder import Const, Hosted, Padded, Ref
from fogconv.frontend.grouping import finished
from fogconv.frontend.torch.host_ops import functional, host_layer
from fogconv.frontend.torch.rules import RULES
from fogconv.frontend.torch.translate import Translator, op_name, shape_of
from fogconv.ir.graph import LayerGraph


def export(model: torch.nn.Module, example: torch.Tensor, name: str) -> LayerGraph:
    """The LayerGraph of a model, for inputs like ``example`` (N, C, H, W).

    The model is exported in inference mode; its own mode is restored. A float64 model gives a graph with float64 weights,
    for comparisons; everything else must be float32. Raises ModelError for a model that can't be exported.
    """
    try:
        with _inference(model), torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.export(model, (example,), strict=False)
    except Exception as error:  # torch.export raises many types of errors for models that it can't capture
        first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ModelError(
            f"{name}: torch.export can't capture this model for an input of {tuple(example.shape)}: {first}"
        ) from error
    return from_exported(program, name)


def from_exported(program: ExportedProgram, name: str) -> LayerGraph:
    """The LayerGraph of an exported program (a ``.pt2`` file) with one 4-D input and one output, and static shapes."""
    program = _without_mutation(program)
    nodes = list(program.graph.nodes)
    constants, entry = _inputs(program, name)
    fake = entry.meta["val"]
    if fake.ndim != 4 or not all(isinstance(size, int) for size in fake.shape):
        raise ModelError(
            f"{name}: its input is {tuple(fake.shape)}; fogconv takes programs with one input (N, C, H, W) of a fixed size"
        )
    if fake.dtype not in (torch.float32, torch.float64):
        raise ModelError(f"{name}: its input is {fake.dtype}; convert the model with .float() before exporting it")
    translator = Translator(int(fake.shape[0]), RULES, fake.dtype)
    for node, value in constants.items():
        translator.values[node] = Const(value)
    translator.values[entry] = Ref(translator.map_of("input", *(int(size) for size in fake.shape[1:])), shape_of(entry))
    for node in nodes:
        if node.op == "get_attr":
            translator.values[node] = Const(_attribute(program, str(node.target)))
        elif node.op == "call_function" and (node.users or node.meta.get("val") is not None):
            translator.visit(node)
    output, output_shape = _output(translator, nodes[-1], name)
    dtype = np.float64 if translator.dtype == torch.float64 else np.float32
    info = {"torch": str(torch.__version__)}
    return finished(name, translator, lambda group: host_layer(group, translator), output, output_shape, dtype, info)


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


def _inputs(program: ExportedProgram, name: str) -> tuple[dict[fx.Node, Any], fx.Node]:
    """The tensors behind the placeholders (weights, buffers, constants), and the placeholder that is the input."""
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
    if len(entries) != 1:
        raise ModelError(f"{name}: it takes {len(entries)} input tensors; fogconv runs models with one")
    return constants, entries[0]


def _attribute(program: ExportedProgram, target: str) -> Any:
    value: Any = program.graph_module
    for part in target.split("."):
        value = getattr(value, part)
    return value


def _output(translator: Translator, node: fx.Node, name: str) -> tuple[int, tuple[int, ...]]:
    results = node.args[0]
    found = [item for item in results if isinstance(item, fx.Node)] if isinstance(results, tuple | list) else [results]
    if len(found) != 1 or not isinstance(found[0], fx.Node):
        raise ModelError(f"{name}: it gives {len(found)} results; fogconv runs models with one output tensor")
    result = found[0]
    if not result.meta["val"].numel():
        raise ModelError(f"{name}: its output {tuple(result.meta['val'].shape)} is empty")
    value = translator.values[result]
    if isinstance(value, Ref):
        return value.tensor, value.shape
    if isinstance(value, Const) or result.meta["val"].dtype != translator.dtype:
        raise ModelError(f"{name}: its output is a constant, or not {translator.dtype}")
    if isinstance(value, Padded):
        translator.host(result)
    shape = shape_of(result)
    batch = translator.batch
    elements = result.meta["val"].numel()
    if elements % batch:
        raise ModelError(f"{name}: its output {shape} does not have one row for each of the {batch} images")
    whole = shape if len(shape) == 4 and shape[0] == batch else (batch, elements // batch, 1, 1)
    assert isinstance(translator.values[result], Hosted)
    return translator.write(result, whole), shape
