"""The house itself: every module stands on a floor, packages stay small, and the wheel holds them all."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PRODUCT = ("fogconv", "kernels", "cluster", "bench", ".importlinter")
LARGE = {"kernels/conv", "kernels/maps", "fogconv/cli/commands"}
"""Packages of one file per algorithm, per operation, per command."""
MOST_MODULES = 9


def copied(folder: Path) -> Path:
    """The product's sources, its two symlinks included, in a folder of their own."""
    for name in PRODUCT:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder / name)
    return folder


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [Path(sys.executable).with_name("lint-imports"), "--no-logo", "--no-cache"]
    environment = {**os.environ, "PYTHONPATH": str(folder), "COLUMNS": "200"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)


def test_floors_hold_in_a_copy_and_a_stray_module_breaks_them(tmp_path: Path) -> None:
    house = copied(tmp_path)
    before = lint(house)
    assert before.returncode == 0, before.stdout[-2000:]
    strays = ("fogconv/stray_root.py", "fogconv/ir/stray_noun.py", "cluster/transport/stray_carrier.py")
    for stray in strays:
        (house / stray).write_text('"""Stands nowhere."""\n')
    (house / "fogconv/stray_package").mkdir()
    (house / "fogconv/stray_package/__init__.py").write_text('"""Stands nowhere."""\n')
    after = lint(house)
    assert after.returncode == 1
    for name in ("stray_root", "stray_noun", "stray_carrier", "stray_package"):
        assert name in after.stdout, after.stdout[-2000:]


def test_floors_break_by_a_circle_that_only_type_checking_sees(tmp_path: Path) -> None:
    house = copied(tmp_path)
    geometry = house / "fogconv/ir/geometry/region.py"
    lines = ("from typing import TYPE_CHECKING", "if TYPE_CHECKING:", "    from fogconv.ir.plan import Plan as Plan", "")
    geometry.write_text(geometry.read_text() + "\n".join(lines))
    after = lint(house)
    assert after.returncode == 1
    assert "fogconv.ir.geometry" in after.stdout


def packages() -> list[Path]:
    folders = (folder for top in ("fogconv", "kernels", "cluster") for folder in (ROOT / top).rglob("*") if folder.is_dir())
    return sorted({ROOT / "fogconv", *(folder for folder in folders if (folder / "__init__.py").exists())})


@pytest.mark.parametrize("package", packages(), ids=lambda folder: str(folder.relative_to(ROOT)))
def test_floors_have_few_rooms(package: Path) -> None:
    modules = [file.name for file in package.glob("*.py") if file.name != "__init__.py"]
    if package == ROOT / "fogconv":
        assert {*modules, "__init__.py", "py.typed"} == {"__init__.py", "__main__.py", "errors.py", "py.typed"}
    elif str(package.relative_to(ROOT)) not in LARGE:
        assert len(modules) <= MOST_MODULES, modules


IMPORT_ALL = """
import importlib, pathlib, sys
top = pathlib.Path(sys.argv[1])
names = sorted(".".join(file.relative_to(top).with_suffix("").parts) for file in (top / "fogconv").rglob("*.py"))
for name in names:
    module = importlib.import_module(name.removesuffix(".__init__"))
    assert pathlib.Path(module.__file__).is_relative_to(top), module.__file__
print(len(names))
"""


def test_wheel_holds_every_module_and_all_can_be_imported(tmp_path: Path) -> None:
    source = copied(tmp_path / "source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q", "-w", str(tmp_path), "."]
    built = subprocess.run(command, cwd=source, capture_output=True, text=True, timeout=120)
    assert built.returncode == 0, built.stderr[-2000:]
    (wheel,) = tmp_path.glob("fogconv-*.whl")
    unpacked = tmp_path / "unpacked"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(unpacked)
    held = {str(file.relative_to(unpacked)) for file in unpacked.rglob("*") if file.is_file()}
    wanted = {
        str(Path("fogconv", *(() if top == "fogconv" else (top,)), file.relative_to(ROOT / top)))
        for top in ("fogconv", "kernels", "cluster")
        for file in (ROOT / top).rglob("*")
        if file.suffix in (".py", ".json", ".bin", ".typed") and "__pycache__" not in file.parts
    }
    assert wanted <= held, wanted - held
    run = [sys.executable, "-c", IMPORT_ALL, str(unpacked)]
    environment = {**os.environ, "PYTHONPATH": str(unpacked), "PYTHONSAFEPATH": "1"}
    imported = subprocess.run(run, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240)
    assert imported.returncode == 0, imported.stderr[-2000:]
    assert int(imported.stdout) == sum(1 for file in held if file.startswith("fogconv/") and file.endswith(".py"))
