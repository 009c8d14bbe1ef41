"""An upgrade with an old cache present: the new version compiles its own code, and leaves the old one's as it was."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fogconv.kernels.codegen import jit as compiled
from tests.test_floors import ROOT, copied

TURNED = """
import sys, time
clock = time.time
time.time = lambda: clock() + float(sys.argv[1])
import numpy as np
from fogconv.kernels.maps.pack import pack, unpack
x = np.arange(3 * 4 * 20, dtype=np.float32).reshape(1, 3, 4, 20)
assert (unpack(pack(x)) == x).all()
from fogconv.kernels.maps import transpose
hits = [d.stats.cache_hits for d in vars(transpose).values() if hasattr(d, "stats")]
print(sum(sum(each.values()) for each in hits), sum(sum(d.stats.cache_misses.values()) for d in vars(transpose).values()
      if hasattr(d, "stats")))
"""


def run(house: Path, folder: Path, clock_s: float = 0.0) -> list[int]:
    """Hits and misses of the cache while a map is packed and unpacked by the sources in a folder, the clock set forward."""
    environment = {**os.environ, "PYTHONPATH": str(house), "PYTHONSAFEPATH": "1", "FOGCONV_CACHE_DIR": str(folder)}
    done = subprocess.run(
        [sys.executable, "-c", TURNED, str(clock_s)], env=environment, cwd=house, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return [int(word) for word in done.stdout.split()]


def content(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.mark.parametrize("changed", ["fogconv/ir/geometry/region.py", "kernels/codegen/vector.py"])
def test_another_version_neither_uses_nor_damages_the_cache(tmp_path: Path, changed: str) -> None:
    house, cache = copied(tmp_path / "house"), tmp_path / "cache"
    cache.mkdir(mode=0o700)
    hits, misses = run(house, cache)
    assert not hits and misses
    assert run(house, cache) == [misses, 0]
    old = content(cache)
    shutil.copy(house / changed, tmp_path / "before")
    with (house / changed).open("a") as source:
        source.write("\nNEW = 1\n")
    assert run(house, cache) == [0, misses], "code of the old version was run"
    assert content(cache).items() >= old.items(), "the old version's files were changed or removed"
    shutil.copy(tmp_path / "before", house / changed)
    assert run(house, cache) == [misses, 0], "the old version, back again, finds what it left"


UPGRADED = """
import sys
from pathlib import Path
from fogconv.kernels.codegen import jit
if sys.argv[1:]:
    with open(sys.argv[1], "a") as source:
        source.write("NEWER = 1")
print(jit._module_hash("fogconv.kernels.maps.pack"))
"""


def test_a_process_that_is_upgraded_meanwhile_leaves_no_code_under_the_new_names(tmp_path: Path) -> None:
    """It has imported the old sources. Kept under the new ones' name, its code would be run by the new version."""
    house = copied(tmp_path / "house")

    def name(*changed: Path) -> str:
        environment = {**os.environ, "PYTHONPATH": str(house), "PYTHONSAFEPATH": "1"}
        command = [sys.executable, "-c", UPGRADED, *map(str, changed)]
        return subprocess.run(command, env=environment, cwd=house, capture_output=True, text=True, check=True).stdout

    before = name()
    assert name() == before
    upgraded = name(house / "kernels/codegen/vector.py")
    assert len({before, upgraded, name()}) == 3
    assert name() == name(), "from then on processes share what they compile"


@pytest.mark.parametrize("years", [-60, 60])
def test_a_clock_that_jumps_costs_nothing(tmp_path: Path, years: int) -> None:
    misses = run(ROOT, tmp_path)[1]
    assert run(ROOT, tmp_path, years * 365 * 86400.0) == [misses, 0]
    assert run(ROOT, tmp_path) == [misses, 0]


def test_what_the_code_depends_on_is_found_in_all_packages() -> None:
    found = compiled._sources("fogconv.kernels.conv.winograd")
    assert {
        "fogconv.ir.geometry",
        "fogconv.kernels.codegen.emit",
        "fogconv.kernels.codegen.jit",
        "fogconv.kernels.conv.tiling",
        "fogconv.kernels.conv.winograd_transforms",
        "fogconv.kernels.maps.blocked",
        "fogconv.kernels.maps.bound",
    } <= set(found)
    assert all(name.startswith(("fogconv.kernels", "fogconv.ir")) for name in found)


@pytest.mark.parametrize("what", ["numba.__version__", "llvmlite.__version__", "numpy.__version__", "sys.version"])
def test_other_libraries_compile_anew(tmp_path: Path, what: str) -> None:
    module, _, name = what.partition(".")
    program = f"import {module}\n{module}.{name} = '9.9.9 (another one)'\n"
    environment = {**os.environ, "FOGCONV_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(ROOT)}

    def names(before: str) -> set[str]:
        code = before + "from fogconv.kernels.codegen.jit import versions\nprint(versions())"
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        return {done.stdout}

    assert names("import fogconv.kernels.codegen.jit\n") != names(f"import fogconv.kernels.codegen.jit\n{program}")
