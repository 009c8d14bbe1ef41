"""The options of the Python API take what the command line takes: the same ranges, the same sentence."""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Callable
from typing import Any, get_type_hints

import numpy as np
import pytest

import fogconv
from fogconv.api.compiled import compile as compile_model
from fogconv.api.planned import plan as plan_model
from fogconv.cluster.connect import connect
from fogconv.errors import InputError
from fogconv.hardware.topology import Topology
from fogconv.ir.guard import Protection
from fogconv.planning.plan_options import PlanOptions
from fogconv.runtime.run_options import RunOptions
from fogconv.values import table
from fogconv.values.number import Number
from tests.cli import program

BOARDS = Topology.uniform(2, 1e9, 1e8)
KINDS: dict[str, Number] = {
    "threads": table.THREADS,
    "timeout_s": table.MESSAGE_TIME,
    "connect_timeout_s": table.CONNECT_TIME,
    "heartbeat_s": table.HEARTBEAT,
    "memory_bytes": table.MEMORY,
    "threshold": table.THRESHOLD,
    "parts": table.PARTS,
    "redundancy": table.REDUNDANCY,
    "patience": table.PATIENCE,
    "size": table.SIDE,
    "inferences": table.INFERENCES,
    "in_flight": table.IN_FLIGHT,
    "jitter": table.JITTER,
    "deadline_s": table.DEADLINE,
}
TAKERS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "RunOptions": (RunOptions, RunOptions),
    "PlanOptions": (PlanOptions, PlanOptions),
    "Protection": (Protection, Protection),
    "connect": (connect, lambda **options: connect("inproc://0", **options)),
    "plan": (plan_model, lambda **options: plan_model("squeezenet1_1", BOARDS, **options)),
    "compile": (compile_model, lambda **options: compile_model("squeezenet1_1", "inproc://0", weights="random", **options)),
}
"""(whose parameters are walked, what is called with one of them)."""
BAD: tuple[Any, ...] = (
    math.nan,
    -math.inf,
    1e300,
    -1e300,
    10**400,
    -(10**5000),
    "1",
    "x",
    True,
    None,
    [1],
    np.float32("nan"),
)


def numbers_of(taker: Callable[..., Any]) -> list[str]:
    """The parameters that are numbers."""
    if dataclasses.is_dataclass(taker):
        hints = get_type_hints(taker)
        names = [field.name for field in dataclasses.fields(taker)]
    else:
        hints, names = get_type_hints(taker), list(inspect.signature(taker).parameters)
    return [name for name in names if hints[name] in (int, float, int | None, float | None)]


CASES = [(name, option) for name, (taker, _) in TAKERS.items() for option in numbers_of(taker)]


def test_every_number_has_a_kind() -> None:
    assert {option for _, option in CASES} <= set(KINDS), "give the option a kind of fogconv.values.table, and enter it here"
    assert len(CASES) >= 10


@pytest.mark.parametrize(("name", "option"), CASES)
def test_a_bad_number_is_an_input_error(name: str, option: str) -> None:
    kind, (_, call) = KINDS[option], TAKERS[name]
    unset = {"threads": name == "connect", "size": True, "parts": True, "memory_bytes": True, "deadline_s": True}
    optional = unset.get(option, False)
    beyond = (kind.least - 1, kind.most + 1) if kind.whole else (kind.least - 1e-6, kind.most * 1.01)
    for bad in (*BAD, *beyond, *(() if kind.endless else (math.inf,)), *((0.5,) if kind.whole else ())):
        if bad is None and optional:
            continue
        with pytest.raises(InputError, match=rf"^{option} .*{kind.rule.split('(')[0]}"):
            call(**{option: bad})


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"trigger": "channels:" + "9" * 5000}, "channels:N takes a whole N"),
        ({"trigger": "maybe"}, "both, bound, estimate"),
        ({"wire": "fp8"}, "lossless"),
        ({"scheme": "ring"}, "auto, star"),
    ],
)
def test_a_bad_word_is_an_input_error(options: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        plan_model("squeezenet1_1", BOARDS, size=64, **options)


@pytest.mark.parametrize(
    ("command", "option", "field", "taker", "value"),
    [
        ("run", "--timeout", "timeout_s", RunOptions, "1e300"),
        ("run", "--heartbeat", "heartbeat_s", RunOptions, "inf"),
        ("run", "--threads", "threads", RunOptions, "-1"),
        ("run", "--threshold", "threshold", PlanOptions, "-1"),
        ("run", "--patience", "patience", Protection, "inf"),
    ],
)
def test_python_and_the_command_line_say_the_same(
    command: str, option: str, field: str, taker: Callable[..., Any], value: str
) -> None:
    typed = program.call(command, "squeezenet1_1", f"{option}={value}").stderr
    with pytest.raises(InputError) as refused:
        taker(**{field: int(value) if field == "threads" else float(value)})
    assert typed.partition(": it must be")[2].strip() == str(refused.value).partition(": it must be")[2].strip()


def test_numbers_of_numpy_are_numbers() -> None:
    assert RunOptions(threads=np.int64(2), timeout_s=np.float32(3)).threads == 2  # type: ignore[arg-type]


@pytest.mark.parametrize("options", [{"inferences": 0}, {"in_flight": 0}, {"inferences": 10**9}, {"in_flight": 1.5}])
def test_a_simulation_checks_its_numbers(options: dict[str, Any]) -> None:
    planned = fogconv.plan("squeezenet1_1", BOARDS, size=64, scheme="local")
    [name] = options
    with pytest.raises(InputError, match=f"^{name} .*it must be a whole number of inferences"):
        planned.simulate(**options)


def test_too_many_pixels_at_once_are_refused() -> None:
    found = program.call("plan", "squeezenet1_1", "--size", "6000", "--batch", "4096")
    assert found.exit_code == 2 and "4096 images of 6000×6000 pixels" in found.stderr
