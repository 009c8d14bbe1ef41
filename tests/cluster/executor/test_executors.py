"""Executors by name, and that every step is known to the one that there is."""

from __future__ import annotations

import sys
from typing import get_args

import pytest

from fogconv.cluster.executor.executable import BINDERS, Executable
from fogconv.cluster.executor.executors import EXECUTORS, executor
from fogconv.cluster.executor.map_steps import KERNELS
from fogconv.cluster.executor.quantized.steps import QUANTIZED
from fogconv.errors import DependencyError, InputError
from fogconv.ir import layers, steps
from fogconv.lowering.layer_steps import MAKERS


def test_executors_are_known_by_name() -> None:
    assert executor() is executor("numba") is Executable
    with pytest.raises(InputError, match="numba"):
        executor("abacus")
    assert set(EXECUTORS) == {"numba", "torch"}


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("numba:cuda", "numba computes on the processor"),
        ("torch:", "names no device"),
        ("torch:abacus", "can't use the device abacus"),
    ],
)
def test_a_device_that_is_not_there_is_one_sentence(name: str, complaint: str) -> None:
    with pytest.raises(InputError, match=complaint) as found:
        executor(name)
    assert "\n" not in str(found.value) and found.value.exit_code == 2


def test_without_torch_its_executor_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    for name in [name for name in sys.modules if name.startswith("fogconv.accelerator.")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(DependencyError, match=r"needs torch: .*\[accelerator\]"):
        executor("torch")


def test_every_step_has_a_binder_and_every_map_step_a_kernel() -> None:
    assert set(BINDERS) == set(get_args(steps.AnyStep))
    assert {*KERNELS, *QUANTIZED} == set(get_args(steps.MapStep))


def test_every_layer_that_workers_compute_has_a_maker_of_its_step() -> None:
    computed = {layer for layer in get_args(layers.Layer) if layer is not layers.Host and not layer.relabels}
    assert set(MAKERS) == computed
