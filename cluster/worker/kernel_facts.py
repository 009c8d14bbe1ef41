"""KernelFacts: what a worker tells masters of its compiled code, before it has any."""

from __future__ import annotations

import os
from typing import NamedTuple


class KernelFacts(NamedTuple):
    """The instruction set's name, and the fingerprint of the kernels."""

    isa: str
    fingerprint: str


def kernel_facts() -> KernelFacts:
    """Raises KernelError where $FOGCONV_ISA names no instruction set."""
    from fogconv.kernels.codegen.isa import host_isa
    from fogconv.kernels.conv.tuning_table import fingerprint

    return KernelFacts(host_isa().name, fingerprint())


def kernel_facts_apart() -> KernelFacts:
    """The same, found by a child of this process, which must have no other Python threads yet: LLVM takes 40 MB, and stays
    where it is loaded."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.write(writing, "\n".join(kernel_facts()).encode())
        finally:
            os._exit(0)  # what went wrong is found again below
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        words = pipe.read().decode().split("\n")
    os.waitpid(child, 0)
    return KernelFacts(*words) if len(words) == len(KernelFacts._fields) else kernel_facts()
