"""ValueTable: the model's values by what the frontend names them by, and the maps, layers and weights behind them."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from fogconv.frontend.building.hosted import AMONG_HOSTED, OTHER_FORM, UNKNOWN, HostOp, result_key
from fogconv.frontend.building.values import Hosted, Last, Many, Ref, Shape, Value, as_sides
from fogconv.frontend.fusion import AnyArray, Draft
from fogconv.ir.graph import Port
from fogconv.ir.layers import Layer, Tensor


@dataclass
class ValueTable:
    """``batch`` is the maps' first axis. ``values`` has the model's values by what the frontend names them by; ``written``
    the maps that hosted operations write."""

    batch: int
    values: dict[Any, Value] = field(default_factory=dict, kw_only=True)
    tensors: list[Tensor] = field(default_factory=list, kw_only=True)
    items: list[Layer | HostOp] = field(default_factory=list, kw_only=True)
    draft: Draft = field(default_factory=dict, kw_only=True)
    written: dict[Any, int] = field(default_factory=dict, kw_only=True)
    names: dict[str, int] = field(default_factory=dict, kw_only=True)
    given: dict[Any, int] = field(default_factory=dict, kw_only=True)
    """The inputs that are no maps: hosted operations find them among their values by these numbers."""

    def take(self, key: Any, number: int, name: str, shape: Shape, dtype: str, *, is_map: bool) -> Port:
        """The model's ``number``-th input, whose value the frontend names by ``key``."""
        if is_map:
            ref = Ref(self.map_of(name, *as_sides(shape)), shape)
            self.values[key] = ref
            return Port(name, ref.tensor, shape)
        self.values[key] = Hosted()
        self.given[key] = number
        return Port(name, None, shape, number, dtype)

    def why_hosted(self, known: bool, reads: Iterable[Any]) -> str:
        """``known``: whether there is a rule for the operator; ``reads``: what the operation reads."""
        if not known:
            return UNKNOWN
        found = [self.values.get(key) for key in reads]
        return OTHER_FORM if any(isinstance(value, Ref | Many) for value in found) else AMONG_HOSTED

    def result(self, key: Any, name: str, shape: Shape | None) -> Port:
        """One of the model's outputs: a map as it is, anything else as host layers return it."""
        value = self.values[key]
        if isinstance(value, Ref):
            return Port(name, value.tensor, value.shape)
        return Port(name, None, shape, self.given.get(key, result_key(key)))

    def map_of(self, name: str, channels: int, height: int, width: int) -> int:
        """A new map; its number."""
        self.tensors.append(Tensor(name, self.batch, channels, height, width))
        return len(self.tensors) - 1

    def like(self, name: str, source: int) -> int:
        read = self.tensors[source]
        return self.map_of(name, read.channels, read.height, read.width)

    def unique(self, name: str) -> str:
        """A unique name for a layer: a module that is called twice gets 'conv#2'."""
        self.names[name] = count = self.names.get(name, 0) + 1
        return name if count == 1 else f"{name}#{count}"

    def array(self, name: str, value: AnyArray) -> str:
        """Store a weight. Returns its provisional key."""
        key = f"{name}:{len(self.draft)}"
        self.draft[key] = value
        return key

    def ref(self, argument: Any) -> Ref | None:
        value = self.values.get(argument) if isinstance(argument, Hashable) else None
        return value if isinstance(value, Ref) else None

    def elements(self, argument: Any) -> Ref | None:
        """A Ref, or the map of a Last: for operators that treat each element alike. `as_given` puts the axes back."""
        value = self.values.get(argument) if isinstance(argument, Hashable) else None
        return Ref(value.tensor, self.tensors[value.tensor].shape) if isinstance(value, Last) else self.ref(argument)

    def as_given(self, argument: Any, made: Ref) -> Ref | Last:
        """The result of `elements`, with the axes where they were."""
        return Last(made.tensor) if isinstance(self.values.get(argument), Last) else made

    def last(self, argument: Any) -> Ref | None:
        """The map of a Last."""
        value = self.values.get(argument) if isinstance(argument, Hashable) else None
        return Ref(value.tensor, self.tensors[value.tensor].shape) if isinstance(value, Last) else None

    def channels_last(self, argument: Any) -> Ref | None:
        """The map of a value (N, …, C) whose last axis is the map's channels: a Last, or a map of one pixel."""
        ref = self.ref(argument)
        one_pixel = ref is not None and self.tensors[ref.tensor].shape[2:] == (1, 1)
        channels = None if ref is None else self.tensors[ref.tensor].channels
        return ref if one_pixel and ref is not None and ref.shape[-1:] == (channels,) else self.last(argument)

    def moved(self, argument: Any, order: Sequence[int], shape: Shape) -> Ref | Last | None:
        """Channels as the last axis, or back; None for other orders of axes."""
        ref, last = self.ref(argument), self.last(argument)
        if ref is not None and list(order) == [0, 2, 3, 1] and ref.shape == self.tensors[ref.tensor].shape:
            return Last(ref.tensor)
        return Ref(last.tensor, shape) if last is not None and list(order) == [0, 3, 1, 2] else None

    def channelwise(self, argument: Any) -> Ref | None:
        """A Ref whose axis 1 is the channels: (N, C, …)."""
        ref = self.ref(argument)
        return ref if ref and ref.shape[:2] == self.tensors[ref.tensor].shape[:2] else None

    def made_by(self, tensor: int) -> Layer | None:
        """The layer that makes a map; None for an input and what is hosted."""
        made = (item for item in reversed(self.items) if not isinstance(item, HostOp) and tensor in item.writes)
        return next(made, None)
