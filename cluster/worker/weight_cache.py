"""The weights that a worker holds, by content key: plain as they came, packed as the kernels read them, rarely both.

Packed weights that can be turned back take the plain ones' place. Winograd's can't, nor those of 8 bits: beside them the
plain ones stay while there is room, for another size may want another packing. Programs with the same weights share what is
packed.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from fogconv.cluster.executor.mailbox import as_array
from fogconv.cluster.protocol.codec import Frame
from fogconv.cluster.transport.zeromq.shared_memory import is_lent
from fogconv.errors import WireError
from fogconv.ir.arrays import Array, weight_key
from fogconv.ir.memory.footprint import Packing
from fogconv.ir.precision.elements import WEIGHT_BYTES, WeightType
from fogconv.storage.swap_file import SwapFolder

if TYPE_CHECKING:
    from fogconv.kernels.conv.conv import PreparedConv2d
    from fogconv.kernels.quantized.conv import PreparedBytes

    Prepared = PreparedConv2d | PreparedBytes


class WeightStore:
    """They stay when a master leaves, so that the next one need not ship them again; the least recently used go first."""

    def __init__(self, swap: SwapFolder | None = None) -> None:
        self.swap = swap or SwapFolder()
        self._on_disk: set[str] = set()
        """Of the plain weights, those that lie in files: they wait to be packed and swapped."""
        self._plain: OrderedDict[str, Array] = OrderedDict()
        self._kept: OrderedDict[Packing, Prepared] = OrderedDict()
        """Packed weights that stay without a program that uses them: they are not here in plain form."""
        self._packed: WeakValueDictionary[Packing, Prepared] = WeakValueDictionary()
        """All that are there, those that only programs hold included."""

    def __len__(self) -> int:
        return len(self._sizes())

    def has(self, key: str) -> bool:
        """Whether a weight is here in any form."""
        return key in self._sizes()

    @property
    def bytes(self) -> int:
        """Of the weights, each counted once and as it came."""
        return sum(self._sizes().values())

    @property
    def held_bytes(self) -> int:
        """What they take in memory: plain, and packed."""
        return self.plain_bytes(self._plain) + sum(each.weight_bytes for each in self._packed.values())

    @property
    def packed(self) -> frozenset[Packing]:
        return frozenset(self._packed)

    def plain_bytes(self, keys: Iterable[str]) -> int:
        """Of those among the keys that are here, in memory, as they came."""
        return sum(self._plain[key].nbytes for key in keys if key in self._plain and key not in self._on_disk)

    def missing(self, keys: Iterable[str], packings: Collection[Packing]) -> set[str]:
        """The keys of weights that have to come before a program with these packings can be built."""
        there = self._plain.keys() | {packing.weight for packing, each in self._packed.items() if each.exact}
        wanted = {packing.weight for packing in packings if packing not in self._packed}
        covered = {packing.weight for packing in packings} - wanted
        return {key for key in keys if key not in there and key not in covered}

    def lend(self, keys: Iterable[str], *, tight: bool) -> Lent:
        """Weights to build a program of. ``tight``: what is packed is not kept plain beside it."""
        return Lent(self, tuple(keys), tight)

    def put(
        self, key: str, shape: tuple[int, ...], payload: Frame, *, swap: bool = False, dtype: WeightType = "float32"
    ) -> None:
        """Store values received with ``key``, in a file where they will be swapped. ``dtype`` is a key of `WEIGHT_BYTES`.
        Raises WireError when the bytes do not fit the shape or the key, SwapError where the disk has no room."""
        n_bytes = math.prod(shape) * WEIGHT_BYTES[dtype]
        if n_bytes != len(payload):
            raise WireError(f"weights of shape {shape} take {n_bytes} bytes; received {len(payload)}")
        array = as_array(bytes(payload) if is_lent(payload) and not swap else payload).view(dtype).reshape(shape)
        if weight_key(array) != key:
            raise WireError(f"the weights received as {key} have the content key {weight_key(array)}")
        if swap and key not in self._plain:
            array = self.swap.store(array).array
            self._on_disk.add(key)
        self._plain.setdefault(key, array)

    def shape(self, key: str) -> tuple[int, ...] | None:
        """The shape of a weight as it was received, in whatever form it is here; None for one that is not."""
        if key in self._plain:
            return self._plain[key].shape
        return next((each.spec.weight_shape for packing, each in self._packed.items() if packing.weight == key), None)

    def kind(self, key: str) -> str:
        """By NumPy's name."""
        if key in self._plain:
            return self._plain[key].dtype.name
        return next((each.weight_type for packing, each in self._packed.items() if packing.weight == key), "float32")

    def plain(self, key: str) -> Array:
        """A weight as it came. Raises KeyError for one that is not here, or only as what can't be turned back."""
        if key in self._plain:
            self._plain.move_to_end(key)
            return self._plain[key]
        for packing, each in self._packed.items():
            if packing.weight == key and each.exact:
                return each.unpack()[0]
        raise KeyError(key)

    def find(self, packing: Packing) -> Prepared | None:
        if packing in self._kept:
            self._kept.move_to_end(packing)
        return self._packed.get(packing)

    def keep(self, packing: Packing, prepared: Prepared, *, last: bool, tight: bool) -> None:
        """A weight is packed. After the ``last`` packing the plain one goes, if it can be had back or room is tight."""
        self._packed[packing] = prepared
        forms = {other: each for other, each in self._packed.items() if other.weight == packing.weight}
        exact = {other: each for other, each in forms.items() if each.exact}
        if last and (exact or tight):
            self._kept.update(exact or forms)
            self._drop(packing.weight)

    def evict(self, wanted_bytes: int, keep: Iterable[str] = (), packings: Collection[Packing] = ()) -> int:
        """Forget the longest unused weights until ``wanted_bytes`` are free, but not the plain ones to ``keep`` nor these
        packings; the bytes freed. What a program uses stays."""
        kept = set(keep)
        freed = 0
        for key in [key for key in self._plain if key not in kept]:
            if freed >= wanted_bytes:
                return freed
            freed += self._drop(key)
        for packing in [packing for packing in self._kept if packing not in packings and packing.weight not in kept]:
            if freed >= wanted_bytes:
                return freed
            each = self._kept.pop(packing)
            size = each.weight_bytes
            del each
            used = self._packed.get(packing)
            if used is None:
                freed += size
            else:
                self._kept[packing] = used
        return freed

    def forget_swapped(self, keep: Collection[str]) -> None:
        """Free the disk of all weights that no program uses, but for those to ``keep``."""
        for key in self._on_disk - set(keep):
            self._drop(key)
        for packing in [packing for packing, each in self._kept.items() if each.is_stowed and packing.weight not in keep]:
            del self._kept[packing]
            used = self._packed.get(packing)
            if used is not None:
                self._kept[packing] = used

    def _drop(self, key: str) -> int:
        """Forget a plain weight. Returns the memory freed, in bytes."""
        freed = self.plain_bytes([key])
        self._plain.pop(key, None)
        self._on_disk.discard(key)
        return freed

    def _sizes(self) -> dict[str, int]:
        packed = {
            packing.weight: WEIGHT_BYTES[each.weight_type] * each.spec.weight_elements
            for packing, each in self._packed.items()
        }
        return {**packed, **{key: array.nbytes for key, array in self._plain.items()}}


class Lent(Mapping[str, Array]):
    """The weights of one program, plain where they are asked for; see `fogconv.cluster.executor.interface.Packed`."""

    def __init__(self, store: WeightStore, keys: tuple[str, ...], tight: bool) -> None:
        self._store, self._keys, self._tight = store, keys, tight

    def __getitem__(self, key: str) -> Array:
        return self._store.plain(key)

    def __contains__(self, key: object) -> bool:
        return key in self._keys

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)

    def find(self, packing: Packing) -> Prepared | None:
        return self._store.find(packing)

    @property
    def swap(self) -> SwapFolder:
        return self._store.swap

    def keep(self, packing: Packing, prepared: Prepared, *, last: bool) -> None:
        self._store.keep(packing, prepared, last=last, tight=self._tight)
