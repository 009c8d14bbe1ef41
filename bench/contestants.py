"""torch's ways to run one convolution, and ours, as calls without arguments on the same numbers."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

import numpy as np
import torch
import torch.utils.mkldnn

from fogconv.ir.geometry import ConvSpec
from fogconv.kernels import prepare_conv2d, reference
from fogconv.kernels.maps.blocked import Blocked
from fogconv.kernels.maps.transpose import bind_pack, bind_unpack

Call = Callable[[], object]

MALLOC = {
    "MALLOC_MMAP_THRESHOLD_": "4294967296",
    "MALLOC_TRIM_THRESHOLD_": "4294967296",
    "MALLOC_TOP_PAD_": "67108864",
}
"""Without these glibc returns torch's large outputs to the system after each call and pays for the page faults again."""


def with_fair_malloc() -> None:
    """Restart this process with ``MALLOC`` set, if it was not."""
    if any(os.environ.get(name) != value for name, value in MALLOC.items()):
        os.environ.update(MALLOC)
        os.execv(sys.executable, sys.orig_argv)


class Contest:
    """One convolution on random normal numbers. ``torch`` and ``torch_nchw`` are calls by name; the latter
    take and give NCHW.

    ``ours`` runs on blocked maps, ``ours_nchw`` packs the input and unpacks the output as well.
    """

    def __init__(self, spec: ConvSpec, seed: int = 0) -> None:
        random = np.random.default_rng(seed)
        self.spec = spec
        self.x = random.standard_normal(spec.input_shape, dtype=np.float32)
        self.weight = random.standard_normal(spec.weight_shape, dtype=np.float32)
        self.bias = random.standard_normal(spec.out_channels, dtype=np.float32)
        self.torch_nchw, self.torch_other = self._torch()
        prepared = prepare_conv2d(spec, self.weight, self.bias)
        self.algorithm = prepared.algorithm
        blocked = prepared.empty_input()
        pack_input = bind_pack(self.x, blocked)
        pack_input()
        self._out = Blocked.empty(*spec.output_shape)
        self._y = np.empty(spec.output_shape, np.float32)
        self.ours = prepared.bind(blocked, self._out)
        unpack_output = bind_unpack(self._out, self._y)

        def ours_nchw() -> None:
            pack_input()
            self.ours()
            unpack_output()

        self.ours_nchw = ours_nchw

    @property
    def torch(self) -> dict[str, Call]:
        return {**self.torch_nchw, **self.torch_other}

    def _torch(self) -> tuple[dict[str, Call], dict[str, Call]]:
        spec = self.spec
        padding = (spec.padding[0], spec.padding[2])
        plain = self._module()
        last = self._module().to(memory_format=torch.channels_last)
        opaque = torch.utils.mkldnn.to_mkldnn(self._module())
        x = torch.from_numpy(self.x)
        x_last, x_opaque = x.contiguous(memory_format=torch.channels_last), x.to_mkldnn()
        rest = (padding, spec.stride, spec.dilation, spec.groups)
        packed = torch.ops.mkldnn._reorder_convolution_weight(plain.weight, *rest, list(spec.input_shape))
        pointwise = torch.ops.mkldnn._convolution_pointwise
        bias = plain.bias
        nchw: dict[str, Call] = {
            "nchw": lambda: plain(x),
            "prepacked": lambda: pointwise(x, packed, bias, *rest, "none", [], ""),
        }
        other: dict[str, Call] = {
            "channels_last": lambda: last(x_last),
            "prepacked_channels_last": lambda: pointwise(x_last, packed, bias, *rest, "none", [], ""),
            "opaque": lambda: opaque(x_opaque),
        }
        return nchw, other

    def _module(self) -> torch.nn.Conv2d:
        s = self.spec
        module = torch.nn.Conv2d(
            s.in_channels, s.out_channels, s.kernel, s.stride, (s.padding[0], s.padding[2]), s.dilation, s.groups
        )
        module.load_state_dict({"weight": torch.from_numpy(self.weight), "bias": torch.from_numpy(self.bias)})
        return module.eval().requires_grad_(False)

    def error(self) -> float:
        """Our largest error against float64, relative to the largest value."""
        self.ours_nchw()
        exact = reference.conv2d(self.x, self.weight, self.bias, self.spec)
        return float(np.abs(self._y - exact).max() / np.abs(exact).max())
