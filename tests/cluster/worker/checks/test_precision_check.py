"""A program whose buffers and weights no kernel fits is refused before anything is bound."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from fogconv.cluster.worker.checks.program_check import check_program
from fogconv.errors import WireError
from fogconv.hardware.topology import Topology
from fogconv.ir import steps as ir
from fogconv.ir.precision.scale import FP32, Precision
from fogconv.ir.program import Program, decode, encode
from fogconv.lowering.lower import lower
from fogconv.planning.plan_options import PlanOptions
from fogconv.planning.planner import plan
from fogconv.quantization.precision import in_precision
from tests.quantized_net import network, on_bytes

Change = Callable[[Program], Program]


def program() -> Program:
    graph = on_bytes().graph
    chosen = plan(graph, Topology.uniform(3, 1e8, 1e10, 1e-7), PlanOptions("star", split="input:3", threshold=0.0))
    return lower(graph, chosen).programs[1]


def with_buffers(precision: Precision) -> Change:
    def change(program: Program) -> Program:
        buffers = tuple(msgspec.structs.replace(each, precision=precision) for each in program.buffers)
        return msgspec.structs.replace(program, buffers=buffers)

    return change


def with_steps(kind: type, **changes: Any) -> Change:
    def change(program: Program) -> Program:
        steps = tuple(msgspec.structs.replace(each, **changes) if isinstance(each, kind) else each for each in program.steps)
        return msgspec.structs.replace(program, steps=steps)

    return change


def in_floats(program: Program) -> Program:
    steps = tuple(
        msgspec.structs.replace(each, spec=replace(each.spec, element="fp32")) if isinstance(each, ir.Conv) else each
        for each in program.steps
    )
    return msgspec.structs.replace(program, steps=steps)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (with_buffers(FP32), "sends a map of fp32 as uint8"),
        (with_buffers(Precision("int32")), "sends a map of int32 as uint8"),
        (with_steps(ir.Recv, wire="fp32"), "sends a map of uint8 as fp32"),
        (in_floats, "is a conv of fp32 that reads uint8"),
        (lambda it: msgspec.structs.replace(it, weight_types={}), "has weights of float32; int8 is needed"),
        (lambda it: msgspec.structs.replace(it, weight_types={"x": "int8"}), "has a type of weights x"),
    ],
)
def test_what_does_not_fit_is_refused(change: Change, sentence: str) -> None:
    check_program(program(), 1 << 30)
    with pytest.raises(WireError, match=sentence):
        check_program(change(program()), 1 << 30)


def halved() -> Program:
    graph = in_precision(network(), "bf16", None)
    chosen = plan(graph, Topology.uniform(3, 1e8, 1e10, 1e-7), PlanOptions("star", split="input:3", threshold=0.0))
    return lower(graph, chosen).programs[1]


def with_weights(kind: Any) -> Change:
    return lambda program: msgspec.structs.replace(program, weight_types=dict.fromkeys(program.weight_types, kind))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (with_buffers(FP32), "sends a map of fp32 as bf16|is a conv of bf16 that reads fp32"),
        (with_buffers(Precision("fp16")), "sends a map of fp16 as"),
        (with_buffers(Precision("bf16")), "sends a map of bf16 as fp32"),
        (with_steps(ir.Recv, accumulate=True), "adds to a map of bf16"),
        (with_weights("float16"), "has weights of float16; uint16 is needed"),
        (in_floats, "is a conv of fp32 that reads bf16"),
    ],
)
def test_what_does_not_fit_16_bits_is_refused(change: Change, sentence: str) -> None:
    check_program(halved(), 1 << 30)
    with pytest.raises(WireError, match=sentence):
        check_program(change(halved()), 1 << 30)


def test_a_program_travels_with_its_precisions() -> None:
    assert decode(encode(program())) == program()
