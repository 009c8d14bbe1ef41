"""`import fogconv` is light, and everything public is found from there."""

from __future__ import annotations

import subprocess
import sys

import fogconv
import fogconv.speedup
import fogconv.zoo

HEAVY = ("torch", "torchvision", "numba", "llvmlite", "zmq", "mpi4py", "numpy", "msgspec", "typer", "rich")


def loaded_after(code: str) -> set[str]:
    program = f"{code}\nimport sys; print(*sorted(set(sys.modules) & set({HEAVY!r})))"
    return set(subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout.split())


def test_import_fogconv_loads_nothing_heavy() -> None:
    assert loaded_after("import fogconv; dir(fogconv); fogconv.__version__") == set()
    assert loaded_after("import fogconv; fogconv.zoo; fogconv.speedup") == set()


def test_import_offers_every_public_name() -> None:
    for package in (fogconv, fogconv.zoo, fogconv.speedup):
        for name in package.__all__:
            assert getattr(package, name) is not None


def test_import_says_which_name_is_missing() -> None:
    for package in (fogconv, fogconv.zoo, fogconv.speedup):
        assert not hasattr(package, "no_such_name")


def test_import_finds_the_paper_s_bound() -> None:
    spec = fogconv.speedup.ConvSpec(256, 256, 28, 28, (3, 3), padding=(1, 1, 1, 1))
    rates = fogconv.speedup.Rates(gamma=1e-10, beta=4e-8)
    assert fogconv.speedup.bound(spec, rates) > fogconv.speedup.estimate(spec, rates, 4) > 1
