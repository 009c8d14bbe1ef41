"""Pooling on bytes equals the reference to the last bit, whole and in parts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fogconv.errors import KernelError
from fogconv.ir.geometry import PoolSpec
from fogconv.kernels.maps.blocked import Blocked, Margin
from fogconv.kernels.quantized import reference
from fogconv.kernels.quantized.numbers import Target
from fogconv.kernels.quantized.pooling import bind_average_pool, bind_global_sums, bind_max_pool
from tests.kernels.quantized.byte_maps import pack_bytes, random_bytes, unpack_lanes

pytestmark = pytest.mark.arm


@st.composite
def specs(draw: st.DrawFn) -> PoolSpec:
    kind = draw(st.sampled_from(("max", "avg")))
    kernel = draw(st.sampled_from(((2, 2), (3, 3), (1, 4))))
    padding = tuple(draw(st.integers(0, (kernel[axis // 2]) // 2)) for axis in range(4))
    dilation = draw(st.sampled_from(((1, 1), (1, 2)))) if kind == "max" else (1, 1)
    return PoolSpec(
        kind,
        draw(st.sampled_from((3, 16, 21))),
        draw(st.integers(5, 8)),
        draw(st.integers(8, 9)),
        kernel,
        draw(st.sampled_from(((1, 1), (2, 2), (1, 3)))),
        padding,  # type: ignore[arg-type]
        dilation,
        draw(st.booleans()),
        draw(st.booleans()),
        draw(st.sampled_from((None, 3, -2))) if kind == "avg" else None,
        draw(st.integers(1, 2)),
    )


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(specs(), st.integers(0, 255), st.sampled_from((1.0, 0.37, 4.5)), st.booleans())
def test_pooling_equals_the_reference(spec: PoolSpec, zero: int, ratio: float, in_parts: bool) -> None:
    x = random_bytes(np.random.default_rng(spec.height), spec.batch, spec.channels, spec.height, spec.width)
    target = Target(zero, zero // 2, 255)
    source = pack_bytes(x, 255 - zero, Margin(1, 0, 0, 1))
    out = Blocked.empty(spec.batch, spec.channels, spec.out_height, spec.out_width, Margin(0, 1, 1, 0), 16, np.uint8, 77)
    rows = spec.out_height // 2 if in_parts else 0
    for first, stop in ((0, rows), (rows, spec.out_height)):
        part = out.view(slice(0, spec.channels), slice(first, stop), slice(0, spec.out_width))
        if first == stop:
            continue
        if spec.kind == "max":
            bind_max_pool(spec, source, 0, 0, part, first, 0)()
        else:
            bind_average_pool(spec, source, 0, 0, part, first, 0, 255 - zero, ratio, target)()
    average = reference.average_pool(spec, x, 255 - zero, ratio, target) if spec.kind == "avg" else None
    exact = reference.max_pool(spec, x) if average is None else average
    assert np.array_equal(unpack_lanes(out)[:, : spec.channels], exact)
    for channel in range(spec.channels):
        out.interior[:, channel // 16, :, :, channel % 16] = 77
    assert (out.data == 77).all()


@pytest.mark.parametrize("channels", [16, 21])
def test_sums_of_a_whole_map_are_exact(channels: int) -> None:
    x = random_bytes(np.random.default_rng(0), 2, channels, 5, 7)
    out = Blocked.empty(2, channels, 1, 1, kind=np.int32, fill=9)
    bind_global_sums(pack_bytes(x, 3, Margin(1, 1, 1, 1)), out, 200)()
    found = unpack_lanes(out)
    assert np.array_equal(found[:, :channels, 0, 0], (x.astype(np.int64) - 200).sum(axis=(2, 3)))
    assert (found[:, channels:] == 9).all()


def test_a_part_without_its_rows_is_refused() -> None:
    spec = PoolSpec("max", 16, 6, 6, (3, 3), (1, 1))
    x, out = Blocked.empty(1, 16, 4, 6, kind=np.uint8), Blocked.empty(1, 16, 4, 4, kind=np.uint8)
    with pytest.raises(KernelError, match="rows"):
        bind_max_pool(spec, x, 0, 0, out, 0, 0)
    with pytest.raises(KernelError, match="summed"):
        bind_global_sums(x, out, 0)
