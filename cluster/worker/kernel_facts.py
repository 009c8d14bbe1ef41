"""KernelFacts: what a worker tells masters of its compiled code, before it has any."""

from __future__ import annotations

import os
from typing import NamedTuple

import msgspec

from fogconv.ir.memory.algorithm import Vectors
from fogconv.ir.precision.elements import Element


class KernelFacts(NamedTuple):
    """The instruction set's name, the fingerprint of the kernels, the elements narrower than fp32 of which one instruction
    multiplies several, and what the rule of algorithms knows of the CPU."""

    isa: str
    fingerprint: str
    multiplies: tuple[Element, ...] = ()
    vectors: Vectors | None = None


def kernel_facts() -> KernelFacts:
    """Raises KernelError where $FOGCONV_ISA names no instruction set."""
    from fogconv.kernels.codegen.isa import host_isa, host_multiplies, host_vectors
    from fogconv.kernels.conv.tuning_table import fingerprint

    return KernelFacts(host_isa().name, fingerprint(), host_multiplies(), host_vectors())


def kernel_facts_apart() -> KernelFacts:
    """The same, found by a child of this process, which must have no other Python threads yet: LLVM takes 40 MB, and stays
    where it is loaded."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.write(writing, msgspec.json.encode(kernel_facts()))
        finally:
            os._exit(0)  # what went wrong is found again below
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        told = pipe.read()
    os.waitpid(child, 0)
    return msgspec.json.decode(told, type=KernelFacts) if told else kernel_facts()
