"""Allowed: which work and which transfers a plan may have. The search leaves all others out.

    at      a layer is computed whole, on one rank
    still   a tensor is not sent: only the ranks that hold it read it

Pins, an input that stays at home and cuts at shrinking tensors are all stated in these two.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from fogconv.errors import InputError
from fogconv.ir.graph import LayerGraph
from fogconv.ir.layers import Layer
from fogconv.ir.layout import MASTER
from fogconv.ir.plan import Plan
from fogconv.ir.program import Program
from fogconv.ir.steps import Send


@dataclass(frozen=True, slots=True)
class Allowed:
    """``at``: tensor → the only rank that may compute it. ``still``: the tensors that may not be sent. ``because`` names
    the options that say so, for messages."""

    at: Mapping[int, int] = field(default_factory=dict)
    still: frozenset[int] = frozenset()
    because: str = ""

    def rank_of(self, layer: Layer) -> int | None:
        """The only rank that may compute a layer; None where any may."""
        return self.at.get(layer.writes[0]) if layer.writes else None

    def stays_home(self, layer: Layer) -> bool:
        """Whether a layer can only be computed by the master, in a scheme that starts each layer there."""
        return self.rank_of(layer) == MASTER or any(tensor in self.still for tensor in layer.reads)

    @property
    def ranks(self) -> frozenset[int]:
        """The ranks that some layer can't do without."""
        return frozenset(self.at.values()) | ({MASTER} if self.still else frozenset())

    def among(self, ranks: Sequence[int]) -> Allowed:
        """The same where rank i is one that was ``ranks[i]`` before."""
        new = {old: i for i, old in enumerate(ranks)}
        return Allowed({tensor: new[rank] for tensor, rank in self.at.items()}, self.still, self.because)

    def check(self, graph: LayerGraph, plan: Plan, programs: Sequence[Program]) -> None:
        """Raises InputError for a plan, made elsewhere, that does not keep to this."""
        for layer, placement in zip(graph.layers, plan.placements, strict=True):
            rank = self.rank_of(layer)
            others = [work.rank for work in placement.work if work.rank != rank]
            if rank is not None and others:
                raise InputError(
                    f"the plan computes {layer.name} on rank {others[0]}, and {self.because} keeps it on {rank}"
                )
        held = {graph.tensors[tensor].name for tensor in self.still}
        for name in sent_tensors(programs):
            if name in held:
                raise InputError(f"the plan sends {name}, and {self.because} keeps it where it is; plan again")


def sent_tensors(programs: Sequence[Program]) -> tuple[str, ...]:
    """The names of all tensors of which the programs send a part, each once."""
    sends = ((program, step) for program in programs for step in program.steps if isinstance(step, Send))
    return tuple(dict.fromkeys(program.buffers[part.buffer].tensor for program, step in sends for part in step.parts))
