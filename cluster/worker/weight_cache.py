"""The weights that a worker holds, by content key, least recently used first out."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterable

import numpy as np

from fogconv.cluster.executor.mailbox import as_array
from fogconv.cluster.protocol.codec import Frame
from fogconv.cluster.transport.zeromq.shared_memory import is_lent
from fogconv.errors import WireError
from fogconv.ir.arrays import Array
from fogconv.ir.program import weight_key


class WeightStore:
    """Arrays by content key. They stay when a master leaves, so that the next one need not ship them again."""

    def __init__(self) -> None:
        self._arrays: OrderedDict[str, Array] = OrderedDict()
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._arrays)

    def __contains__(self, key: object) -> bool:
        return key in self._arrays

    def __getitem__(self, key: str) -> Array:
        self._arrays.move_to_end(key)
        return self._arrays[key]

    def put(self, key: str, shape: tuple[int, ...], payload: Frame) -> None:
        """Store fp32 values received with ``key``. Raises WireError when the bytes do not fit the shape or the key."""
        if math.prod(shape) * 4 != len(payload):
            raise WireError(f"weights of shape {shape} take {math.prod(shape) * 4} bytes; received {len(payload)}")
        array = as_array(bytes(payload) if is_lent(payload) else payload).view(np.float32).reshape(shape)
        if weight_key(array) != key:
            raise WireError(f"the weights received as {key} have the content key {weight_key(array)}")
        if key not in self._arrays:
            self._arrays[key] = array
            self.bytes += array.nbytes

    def evict(self, wanted_bytes: int, keep: Iterable[str] = ()) -> int:
        """Drop the least recently used arrays, except those to ``keep``, until ``wanted_bytes`` are free. Returns the
        bytes freed."""
        kept = set(keep)
        freed = 0
        for key in [key for key in self._arrays if key not in kept]:
            if freed >= wanted_bytes:
                break
            freed += self._arrays.pop(key).nbytes
        self.bytes -= freed
        return freed
