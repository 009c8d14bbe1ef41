"""All algorithms that can run a spec: the candidates, and F(6×6, 3×3) also for maps that are too small for it to pay."""

from __future__ import annotations

from fogconv.ir.geometry import ConvSpec
from fogconv.kernels.codegen.isa import Isa
from fogconv.kernels.conv.select import candidates


def algorithms(spec: ConvSpec, isa: Isa) -> tuple[str, ...]:
    found = candidates(spec, isa)
    return tuple(dict.fromkeys((*found, "winograd6"))) if "winograd4" in found and spec.kernel == (3, 3) else found
