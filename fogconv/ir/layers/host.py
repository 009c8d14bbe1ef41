"""Host: what workers can't do stays on the master, in the model's own framework."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from fogconv.ir.arrays import Array
from fogconv.ir.layers.operator import Needs, Operator
from fogconv.ir.layers.tensor import Tensor
from fogconv.ir.shard import Work


@dataclass(frozen=True, slots=True)
class Hosted:
    """One operation of a Host layer: its operator in the model's framework, its node's name, why it is not a layer of its
    own, and its multiply-adds for the whole batch."""

    operator: str
    node: str
    why: str
    macs: int = 0


@dataclass(frozen=True, slots=True)
class Host(Operator):
    """Operations of the model's own framework, on the master: reads and writes maps by number.

    ``call(values, *maps)`` gets one NCHW array per read and returns one per write; ``values`` is a dict, new for each
    inference, with the inference's inputs by their numbers, in which calls keep values that are not maps (token sequences,
    masks) for later calls, and as results.
    """

    name: str
    reads: tuple[int, ...]
    writes: tuple[int, ...]
    call: Callable[..., Sequence[Array]] = field(compare=False, repr=False)
    operations: tuple[Hosted, ...] = ()

    @property
    def ops(self) -> tuple[str, ...]:
        """Its operators, each once."""
        return tuple(sorted({each.operator for each in self.operations}))

    def needs(self, tensors: Sequence[Tensor], work: Work) -> Needs:
        return tuple((source, tensors[source].region) for source in self.reads)
