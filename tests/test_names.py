"""Names: what benches, tests and examples take from the project's modules exists. mypy reads only fogconv itself."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[1]
OURS = ("fogconv", "bench", "tests")
FILES = sorted(path for folder in ("bench", "tests", "examples") for path in (ROOT / folder).rglob("*.py"))


def missing(path: Path) -> Iterator[str]:
    tree = ast.parse(path.read_text())
    modules: dict[str, ModuleType] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in OURS and not node.level:
            for alias in node.names:
                found = taken(node.module, alias.name)
                if found is None:
                    yield f"line {node.lineno}: {node.module} has no {alias.name}"
                elif isinstance(found, ModuleType):
                    modules[alias.asname or alias.name] = found
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules:
            module = modules[node.value.id]
            if not hasattr(module, node.attr):
                yield f"line {node.lineno}: {module.__name__} has no {node.attr}"


def taken(module: str, name: str) -> object | None:
    try:
        found = importlib.import_module(module)
        return getattr(found, name) if hasattr(found, name) else importlib.import_module(f"{module}.{name}")
    except ModuleNotFoundError as error:
        if error.name and error.name.split(".")[0] in OURS:
            return None
        raise


def test_every_name_that_is_taken_from_a_module_exists() -> None:
    wrong = {str(path.relative_to(ROOT)): found for path in FILES if (found := list(missing(path)))}
    assert not wrong


def test_a_name_that_is_gone_is_found(tmp_path: Path) -> None:
    lines = "from fogconv.kernels.maps import blocked, nothing\nfrom fogconv.errors import Nothing\nblocked.nothing()\n"
    (tmp_path / "wrong.py").write_text(lines)
    assert len(list(missing(tmp_path / "wrong.py"))) == 3
