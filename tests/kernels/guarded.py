"""Runs the kernels on arrays that end where memory ends, then on arrays that begin where it begins. A kernel that reads or
writes outside its arrays kills this process: `test_guard_pages` runs it and looks at how it ended.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections.abc import Sequence

import numpy as np

from fogconv.ir.geometry import NARROW, ConvSpec, PoolSpec
from fogconv.kernels.conv import linear
from fogconv.kernels.gradient import gradient
from fogconv.kernels.maps import (
    across_channels,
    blocked,
    elementwise,
    normalize,
    panels,
    per_element,
    pooling,
    transpose,
    wire,
)
from fogconv.kernels.maps.blocked import Blocked, Margin

PAGE = mmap.PAGESIZE
PROT_NONE = 0

_libc = ctypes.CDLL(None, use_errno=True)
_kept: list[mmap.mmap] = []
at_end = True


def guarded(shape: int | Sequence[int], dtype: object = np.float32) -> np.ndarray:
    """An array of zeros between two protected pages, flush with the one behind it or the one before it."""
    dtype = np.dtype(dtype)
    count = int(np.prod(shape))
    size = count * dtype.itemsize
    pages = max(1, -(-size // PAGE))
    memory = mmap.mmap(-1, (pages + 2) * PAGE)
    _kept.append(memory)
    base = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    for guard in (base, base + (pages + 1) * PAGE):
        if _libc.mprotect(ctypes.c_void_p(guard), ctypes.c_size_t(PAGE), PROT_NONE):
            raise OSError(ctypes.get_errno(), "mprotect")
    start = PAGE + (pages * PAGE - size if at_end else 0)
    return np.frombuffer(memory, dtype, count, start).reshape(shape)


def guarded_zeros(shape: tuple[int, ...], alignment: int = 64, kind: object = np.float32) -> np.ndarray:
    array = guarded(shape, kind)
    assert array.ctypes.data % alignment == 0, "whole blocks keep the alignment of a page's end"
    return array


def filled(*shape: int) -> np.ndarray:
    array = guarded(shape)
    array[...] = np.random.default_rng(0).standard_normal(shape)
    return array


def run(channels: int, height: int, width: int, margin: Margin) -> None:
    shape = (2, channels, height, width)
    x, y, out = (Blocked.empty(*shape, margin) for _ in range(3))
    plain = filled(*shape)
    transpose.bind_pack(plain, x)()
    transpose.bind_unpack(x, plain)()
    for activation in (None, "silu"):
        elementwise.bind_add([x, y, x], out, activation)()
        elementwise.bind_affine(x, out, filled(channels), filled(channels), activation, y)()
    elementwise.bind_shift_copy(x, 0, out, 0, channels)()
    per_element.bind_elementwise("leaky_relu", [x], out, (0.1,))()
    for op, parameters in (("softmax", ()), ("log_softmax", ()), ("layer_norm", (0.1,)), ("lrn", (5.0, 0.1, 0.75, 1.0))):
        across_channels.bind_across(op, x, out, parameters)()
    means, squares = (Blocked.empty(2, channels, 1, 1) for _ in range(2))
    normalize.bind_squares(x, means, squares, channels, 0, height * width)()
    normalize.bind_normalize(x, means, squares, out, channels, 0, 0.1, filled(channels), filled(channels), "relu")()
    for sizes in ((channels, 1, 1), (1, height, width), (1, 1, width)):
        per_element.bind_elementwise("multiply", [x, Blocked.empty(2, *sizes)], out)()
        per_element.bind_elementwise("prelu", [x], out, (), filled(*sizes))()
    for source, target, count in ((0, channels - 1, 1), (channels - 1, 0, 1), (1, 0, channels - 1), (0, 1, channels - 1)):
        elementwise.bind_shift_copy(x, source, out, target, count, True)()
    elementwise.bind_permute(x, out, tuple(reversed(range(channels))))()
    gate = Blocked.empty(2, channels, 1, 1)
    pixel = filled(2, channels, 1, 1)
    transpose.bind_pack(pixel, gate)()
    transpose.bind_unpack(gate, pixel)()
    elementwise.bind_gate(x, gate, out)()
    pooling.bind_global_pool(x, gate, 3)()
    for kind in ("max", "avg"):
        for kernel, stride, padding in (((3, 3), (2, 2), 1), ((2, 2), (2, 2), 0), ((5, 5), (1, 1), 2)):
            if min(height, width) + 2 * padding < kernel[0]:
                continue
            spec = PoolSpec(kind, channels, height, width, kernel, stride, (padding,) * 4, ceil_mode=True, batch=2)
            pooled = Blocked.empty(2, channels, spec.out_height, spec.out_width, margin)
            pooling.bind_pool(spec, x, 0, 0, pooled, 0, 0)()
    floats = [wire.DTYPES[form] for form in ("fp32", "fp16", "bf16")]
    for dtype in floats:
        for first in (0, 1, channels - 1):
            count = channels - first
            payload = guarded(wire.wire_elements(2, count, height, width), dtype)
            wire.bind_extract(x, first, count, payload)()
            wire.bind_insert(payload, out, first, count, True)()
    if channels <= NARROW:
        shape_in_memory = (2, 1, margin.top + height + margin.bottom, margin.left + width + margin.right, NARROW)
        narrow = Blocked(guarded(shape_in_memory), channels, height, width, margin)
        transpose.bind_pack(plain, narrow)()
        transpose.bind_unpack(narrow, plain)()
        for dtype in floats:
            for first in range(channels):
                payload = guarded(wire.wire_elements(2, channels - first, height, width), dtype)
                wire.bind_extract(narrow, first, channels - first, payload)()
                wire.bind_insert(payload, narrow, first, channels - first, first > 0)()
    flat = filled(channels * height * width)
    flat[::3] = 0
    for form in ("fp16", "bf16", "zeros"):
        sent = wire.encode(flat, form)
        received = guarded(len(sent), np.uint8)
        received[...] = np.frombuffer(sent, np.uint8)
        wire.decode(received, form, flat.size)
    full = ConvSpec(channels, 19, height, width, (height, width), batch=2)
    head = Blocked.empty(2, 19, 1, 1)
    linear.prepare_linear(full, filled(*full.weight_shape), filled(19), activation="relu").run(x, head, head)
    for groups, outputs in ((1, 19), (channels, channels)):
        for stride, dilation, padding in (((1, 1), (1, 1), 1), ((2, 3), (1, 1), 1), ((1, 2), (2, 2), 2)):
            spec = ConvSpec(channels, outputs, height, width, (3, 3), stride, (padding,) * 4, dilation, groups, 2)
            weight, grad = filled(*spec.weight_shape), filled(*spec.output_shape)
            gradient.GradInput(spec).run(grad, weight, plain)
            gradient.GradWeight(spec).run(plain, grad, weight)


def main() -> None:
    for module in (blocked, elementwise, linear, panels, transpose):
        module.aligned_zeros = guarded_zeros  # type: ignore[attr-defined]
    if "--trespass" in sys.argv:
        array = guarded(16)
        ctypes.memset(array.ctypes.data, 0, 16 * 4 + 1)
    for flush in (True, False):
        globals()["at_end"] = flush
        for channels, height, width in ((1, 3, 3), (3, 5, 17), (16, 4, 4), (21, 7, 9), (37, 3, 16)):
            for margin in (Margin(), Margin(1, 0, 2, 0)):
                run(channels, height, width, margin)


if __name__ == "__main__":
    main()
