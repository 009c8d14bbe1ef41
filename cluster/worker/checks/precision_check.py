"""Precision check: whether there is a kernel for what the buffers and the weights of a step consist of.

The buffers must be there, which `fogconv.cluster.worker.checks.program_check` checks first.
"""

from __future__ import annotations

from collections.abc import Iterator, Set
from typing import get_args

from fogconv.ir import steps as ir
from fogconv.ir.precision.elements import HALVES, WEIGHTS_OF, Element
from fogconv.ir.program import Program, buffers_of


def unknown_precisions(program: Program, step: ir.AnyStep) -> str | None:
    """What is wrong with a step's precisions, as the end of a sentence; None where nothing is."""
    return next(_misfits(program, step), None)


def _misfits(program: Program, step: ir.AnyStep) -> Iterator[str]:
    kept = {_element(program, buffer) for buffer in buffers_of(step)}
    names = " and ".join(sorted(kept))
    match step:
        case ir.Send() | ir.Recv():
            as_kept = {step.wire} if step.wire in ("uint8", "int32") else {"fp32"}
            if isinstance(step, ir.Recv) and step.accumulate and not kept.isdisjoint(HALVES):
                yield f"adds to a map of {names}"
            if kept != as_kept and not (step.wire in HALVES and kept == {step.wire}):
                yield f"sends a map of {names} as {step.wire}"
        case ir.Gather():
            for piece in step.pieces:
                yield from _misfits(program, piece.recv)
                yield from _misfits(program, piece.spare)
            if step.code is not None:
                yield from _misfits(program, step.code)
        case ir.Conv():
            yield from _conv(program, step)
        case ir.Convert():
            if _element(program, step.target) == "int32":
                yield "converts to sums"
            if not kept.isdisjoint(HALVES) and (len(kept) != 2 or "fp32" not in kept):
                yield f"converts {names}"
            if (_element(program, step.source) == "int32") != (step.scales is not None):
                yield "has scales for what are no sums, or sums without scales"
            yield from _of_type(program, step.scales, "float32")
        case ir.Copy() | ir.Permute():
            if len(kept) > 1 or (isinstance(step, ir.Copy) and step.accumulate and not kept.isdisjoint(HALVES)):
                yield f"copies a map of {names}"
        case ir.Add() | ir.Gate() | ir.Pool() | ir.GlobalPool():
            if not (_real(kept) or kept == {"uint8"}):
                yield f"computes on maps of {names}"
        case ir.Elementwise() if kept == {"uint8"}:
            if len(step.sources) != 1 or step.constant is not None:
                yield "combines maps of uint8"
        case _:
            if not (_real(kept) if isinstance(step, get_args(ir.MapStep)) else kept <= {"fp32"}):
                yield f"computes on maps of {names}"


def _real(kept: Set[Element]) -> bool:
    """Whether all are in fp32, or in it and one kind of 16 bits."""
    return any(kept <= {"fp32", half} for half in HALVES)


def _conv(program: Program, step: ir.Conv) -> Iterator[str]:
    quantized = step.spec.element == "uint8"
    read, made = _element(program, step.source), _element(program, step.target)
    if read != step.spec.element:
        yield f"is a conv of {step.spec.element} that reads {read}"
    if step.spec.element not in HALVES or _type(program, step.weight) != "float32":
        yield from _of_type(program, step.weight, WEIGHTS_OF.get(step.spec.element, "none"))
    yield from _of_type(program, step.bias, "int32" if quantized else "float32")
    yield from _of_type(program, step.scales, "float32")
    if quantized and made != "int32" and step.scales is None:
        yield f"makes {made} of {read} without scales"
    if quantized and step.residual is not None:
        yield "adds a residual to 8-bit sums"
    kept = {_element(program, buffer) for buffer in (step.target, step.residual) if buffer is not None}
    if not quantized and (not _real(kept | {read}) or step.scales is not None):
        yield f"makes {made} of {read}"


def _of_type(program: Program, key: str | None, wanted: str) -> Iterator[str]:
    """By NumPy's name."""
    found = _type(program, key)
    if key is not None and found != wanted:
        yield f"has weights of {found}; {wanted} is needed"


def _type(program: Program, key: str | None) -> str:
    return "float32" if key is None else program.weight_types.get(key, "float32")


def _element(program: Program, buffer: int) -> Element:
    return program.buffers[buffer].precision.element
