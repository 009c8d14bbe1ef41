"""Exported programs: a ``.pt2`` file is read without running code from it.

torch.export.load can run code from the file: its sample inputs, and some of its tensors, are pickles; its symbolic shapes
are evaluated as Python; its guards and names become source text; it may contain compiled libraries. Here the archive is
copied without sample inputs and guards, everything else is checked first, and pickles are read as tensors only. Files
that need more are refused, unless the user trusts their author.
"""

from __future__ import annotations

import ast
import importlib
import io
import json
import os
import re
import threading
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from fogconv.errors import ModelError
from fogconv.storage.trusted import open_plain

MOST_EXPANSION = 20
"""torch.export.save does not compress; an archive that expands by more than this factor is an attempt to fill the
memory."""

_SAMPLES = re.compile(r"(.*/)?(data/sample_inputs/[^/]*|serialized_example_inputs\.(pt|json))")
_KNOWN = re.compile(
    r"(.*/)?((data/(weights|constants)/[^/]*|extra(_files)?/.*|models/[^/]*\.json|archive_format|archive_version|byteorder|"
    r"version|\.data/[^/]*|\.format_version|\.storage_alignment)|serialized_(exported_program\.json|(state_dict|constants)\.pt))"
)
_CODE = re.compile(r"(.*/)?data/(weights|constants)/(custom|opaque)_obj_[^/]*")
_PROGRAM = re.compile(r"(.*/)?(models/[^/]*\.json|serialized_exported_program\.json)")

_WORD = re.compile(r"[\w.#:$/@+-]*")
"""Text that becomes source code: names and operators. No brackets, quotes, blanks or line ends."""
_FREE_TEXT = frozenset({"metadata", "as_string", "as_strings", "in_spec", "out_spec", "forward_arg_names"})
_METADATA = frozenset({"stack_trace", "nn_module_stack", "torch_fn", "source_fn_stack", "from_node", "custom"})
_SYMPY = frozenset({
    "Symbol", "Integer", "Float", "Rational", "Add", "Mul", "Pow", "Max", "Min", "Mod", "Abs", "Eq", "Ne", "Lt", "Le",
    "Gt", "Ge", "Equality", "Unequality", "StrictLessThan", "LessThan", "StrictGreaterThan", "GreaterThan", "And",
    "Or", "Not", "true", "false", "True", "False", "FloorDiv", "ModularIndexing", "Where", "PythonMod", "CleanDiv",
    "CeilToInt", "FloorToInt", "CeilDiv", "LShift", "RShift", "PowByNatural", "FloatPow", "FloatTrueDiv",
    "IntTrueDiv", "IsNonOverlappingAndDenseIndicator", "TruncToFloat", "TruncToInt", "RoundToInt", "RoundDecimal",
    "ToFloat", "Identity", "oo", "int_oo",
})  # fmt: skip
_ARITHMETIC = (
    ast.Expression, ast.Call, ast.Name, ast.Load, ast.Constant, ast.keyword, ast.UnaryOp, ast.unaryop, ast.BinOp,
    ast.operator, ast.Compare, ast.cmpop,
)  # fmt: skip

QUANTIZED = b"quantized_decomposed"
"""In the file of a program with torchao's conversions to 8 bits and back."""

_forcing = threading.Lock()


def load_exported(path: Path, *, trust: bool = False) -> Any:
    """The torch.export.ExportedProgram in a file.

    Unless ``trust`` is set, parts that could run code of the file's author are left out or refused. Raises ModelError.
    """
    try:
        with open_plain(path) as file:
            content = file.read()
    except FileNotFoundError:
        raise ModelError(f"there is no model file {path}") from None
    except OSError as error:
        raise ModelError(f"{path} can't be read as a model: {error.strerror or error}") from error
    if QUANTIZED in content:
        # Makes these operations known. An import statement would make torch a local name.
        importlib.import_module("torch.ao.quantization.fx._decomposed")
    try:
        if trust:
            return torch.export.load(io.BytesIO(content))
        cleaned = _cleaned(content, path)
        with tensors_only():
            return torch.export.load(cleaned)
    except ModelError:
        raise
    except Exception as error:  # zipfile, json and torch raise many types of errors
        lines = [line for line in str(error).strip().splitlines() if line.strip()] or [type(error).__name__]
        if any("Weights only load failed" in line or "weights_only" in line for line in lines):
            raise _refused(path, "it holds objects that are no tensors") from error
        raise ModelError(f"{path} is not a program written by torch.export.save: {lines[0]}") from error


@contextmanager
def tensors_only() -> Iterator[None]:
    """Within this block torch loads only tensors and plain values from pickles, and runs no code."""
    with _forcing:
        changed = {"TORCH_FORCE_WEIGHTS_ONLY_LOAD": "1", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "0"}
        before = {name: os.environ.get(name) for name in changed}
        os.environ.update(changed)
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value


def unusable(tensor: torch.Tensor) -> str | None:
    """The reason why a tensor can't be a weight here; None if it can."""
    if tensor.is_quantized:
        return "is quantised; give the weights in float32"
    if tensor.layout is not torch.strided:
        return f"is sparse ({str(tensor.layout).removeprefix('torch.')}); save it as tensor.to_dense()"
    if tensor.is_meta:
        return "is a meta tensor, which has a shape and no values"
    if tensor.is_complex():
        return "is complex; convolutions here are real"
    return None


def _cleaned(content: bytes, path: Path) -> io.BytesIO:
    """A copy of the archive as read by this module: torch parses archives by other rules, and must not find another
    program in it."""
    cleaned = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as archive, zipfile.ZipFile(cleaned, "w") as copy:
        entries = archive.infolist()
        if sum(entry.file_size for entry in entries) > MOST_EXPANSION * len(content):
            raise ModelError(f"{path} would fill the memory when it is unpacked; fogconv does not read it")
        if len({entry.filename for entry in entries}) < len(entries):
            raise ModelError(f"{path} is not a program written by torch.export.save: it holds two entries of one name")
        for entry in entries:
            name = entry.filename
            if _SAMPLES.fullmatch(name):
                copy.writestr(name, b"")
                continue
            if _CODE.fullmatch(name):
                raise _refused(path, "it holds objects that are no tensors")
            if not _KNOWN.fullmatch(name):
                raise _refused(path, f"it holds {name!a}, which may be compiled code")
            data = archive.read(entry)
            copy.writestr(name, _checked_program(data, path) if _PROGRAM.fullmatch(name) else data)
    cleaned.seek(0)
    return cleaned


def _checked_program(data: bytes, path: Path) -> bytes:
    program = json.loads(data)
    if isinstance(program, dict) and "guards_code" in program:
        program["guards_code"] = []  # Python code that checks the input's shape; fogconv checks the input itself
    _check(program, "", path)
    return json.dumps(program).encode()


def _check(value: Any, key: str, path: Path) -> None:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            _check(name, "", path)
            _check(inner, name, path)
    elif isinstance(value, list):
        for inner in value:
            _check(inner, key, path)
    elif isinstance(value, str):
        if key == "expr_str":
            fine = _is_arithmetic(value)
        elif key in ("in_spec", "out_spec"):
            fine = "defaultdict" not in value and "pickle" not in value
        else:
            fine = key in _FREE_TEXT or key in _METADATA or _WORD.fullmatch(value) is not None
        if not fine:
            raise _refused(path, f"it contains {value[:60]!a} in place of a name or a number")


def _is_arithmetic(text: str) -> bool:
    """Whether a symbolic expression is only arithmetic: sympy evaluates it as Python."""
    try:
        nodes = list(ast.walk(ast.parse(text.strip(), mode="eval")))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    for node in nodes:
        if not isinstance(node, _ARITHMETIC):
            return False
        if isinstance(node, ast.Call) and not (isinstance(node.func, ast.Name) and node.func.id in _SYMPY):
            return False
        if isinstance(node, ast.Name) and node.id not in _SYMPY and not re.fullmatch(r"[a-z]+\d*", node.id):
            return False
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and not re.fullmatch(r"\w+", node.value):
            return False
    return True


def _refused(path: Path, reason: str) -> ModelError:
    return ModelError(
        f"{path} could run its author's code when it is loaded: {reason}. Use --trust (trust=True) if you trust its author"
    )
