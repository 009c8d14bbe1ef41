"""The recipe "add an operator to the workers" of CONTRIBUTING.md, followed in a copy of the tree."""

from __future__ import annotations

import filecmp
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PRODUCT = ("fogconv", "kernels", "cluster")
MOST_FILES = 4

RECIPE = {
    "kernels/codegen/formulas.py": [
        (
            "FORMULAS: Mapping[str, Formula] = {\n",
            """def _fmin(builder: ir.IRBuilder, inputs: Sequence[Any], parameters: Sequence[Any]) -> Any:
    a, b = inputs
    smaller = builder.select(builder.fcmp_ordered("<", a, b), a, b)
    return builder.select(builder.fcmp_unordered("uno", b, b), a, smaller)


def _threshold(builder: ir.IRBuilder, inputs: Sequence[Any], parameters: Sequence[Any]) -> Any:
    [x], [threshold, value] = inputs, parameters
    return builder.select(builder.fcmp_ordered("<=", x, threshold), value, x)


FORMULAS: Mapping[str, Formula] = {
    "fmin": Formula(2, 0, _fmin),
    "threshold": Formula(1, 2, _threshold),
""",
        )
    ],
    "fogconv/frontend/torch/rules/__init__.py": [
        (
            "RULES: Mapping[str, Rule] = {\n",
            """RULES: Mapping[str, Rule] = {
    "fmin": pointwise.elementwise_pair("fmin"),
    "threshold": pointwise.elementwise("threshold", "threshold", "value"),
""",
        )
    ],
}
"""File → (what stands there, what replaces it): one operator on two maps, and one on one map with two parameters."""

RUN = """
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

import fogconv.kernels
from fogconv.cluster.connect import connect
from fogconv.frontend.torch.export import export
from fogconv.hardware.topology import Topology
from fogconv.planning.plan_options import PlanOptions
from fogconv.runtime.engine import Engine

assert Path(fogconv.kernels.__file__).resolve().is_relative_to(Path.cwd().resolve()), "this is not the copy"
torch.manual_seed(0)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.one, self.other = nn.Conv2d(3, 40, 3, 2, 1), nn.Conv2d(40, 33, 3, 1, 1), nn.Conv2d(40, 33, 1)
        self.last = nn.Conv2d(33, 7, 3, 1, 1)

    def forward(self, x):
        y = self.first(x)
        x = y + F.threshold(y, 0.125, 0.125)
        return self.last(torch.fmin(self.one(x), self.other(x)))


model, x = Net().eval(), torch.randn(2, 3, 37, 30)
graph = export(model, x, "net")
new = [index for index, layer in enumerate(graph.layers) if layer.kind in ("fmin", "threshold")]
assert len(new) == 2, [layer.kind for layer in graph.layers]
with torch.inference_mode():
    expected = model(x).numpy()
# A network so fast that layers are distributed, which on one machine they would not be.
topology = Topology.uniform(3, 10e9, 1e11, 1e-7, copy_s_per_byte=1e-12, step_s=1e-8)
with connect("inproc://2", threads=1) as session:
    for scheme in ("auto", "star", "depth", "rows", "local"):
        engine = Engine(graph, session, topology, PlanOptions(scheme, threshold=0.0))
        output = engine.run(x.numpy()).output
        ranks = {work.rank for index in new for work in engine.plan.placements[index].work}
        engine.close()
        np.testing.assert_allclose(output, expected, rtol=1e-4, atol=1e-5, err_msg=scheme)
        print(scheme, len(ranks))
"""


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The product's tree with the recipe applied."""
    folder = tmp_path_factory.mktemp("copy")
    for name in PRODUCT:
        shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name, changes in RECIPE.items():
        path = folder / name
        text = path.read_text()
        for old, new in changes:
            assert text.count(old) == 1, f"{name} has no such line any more: {old}"
            text = text.replace(old, new)
        path.write_text(text)
    return folder


def changed(folder: Path) -> set[str]:
    """The files of the copy that differ from the tree's, or that the tree lacks."""
    found = set()
    for path in (path for name in PRODUCT for path in (folder / name).rglob("*") if path.is_file()):
        name = path.relative_to(folder)
        if not (ROOT / name).is_file() or not filecmp.cmp(path, ROOT / name, shallow=False):
            found.add(str(name))
    return found


def test_a_new_elementwise_operator_touches_at_most_four_files_and_runs_in_every_scheme(copy: Path) -> None:
    assert changed(copy) == set(RECIPE)
    assert len(RECIPE) <= MOST_FILES
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", RUN], cwd=copy, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    ranks = dict(line.split() for line in done.stdout.splitlines())
    # In the star they stay on the master, as all that is no conv does.
    assert ranks == {"auto": "3", "star": "1", "depth": "3", "rows": "3", "local": "1"}
