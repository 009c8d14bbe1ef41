"""Training costs: seconds of one conv's forward pass and of its gradients on one device, as layers in training run them.

    forward   packs the weights, which change with every step, and the plain input; computes; unpacks the output
    input     the gradient of the input: at stride 1 the forward kernel over turned weights, else a kernel of its own
    weight    the gradient of the weight; its input was packed after the forward pass

    seconds = γ·MACs + a·elements of both maps + b·weights + c

γ is per kernel and kernel class, the others are per kernel; Winograd's weights have a b of their own. An inference has none
of a, b and c: there maps stay packed, and weights are packed once. A device that measured its costs
(`fogconv.calibration.training`) has them in ``Device.training``; the costs of others are assumed to be REFERENCE's, by the
ratio of the devices' rates. The gradients' own kernels run on one thread, as packing does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from fogconv.hardware.topology import Device, kernel_class
from fogconv.ir.geometry import ConvSpec, mirrored

PassName = Literal["forward", "input", "weight"]


@dataclass(frozen=True, slots=True)
class PassSample:
    """One timed pass of a conv."""

    name: PassName
    spec: ConvSpec
    seconds: float


def pass_s(device: Device, name: PassName, spec: ConvSpec) -> float:
    """Seconds of a pass of this conv on a device, measured or assumed."""
    kernel, sizes = _sizes(name, spec)
    costs = device.training if device.training else _assumed(device)
    worst = max((costs[each] for each in costs if each.startswith(f"{kernel} s/MAC")), default=device.gamma())
    return sum(size * costs.get(key, worst if "s/MAC" in key else 0.0) for key, size in sizes.items())


def fit_costs(samples: Iterable[PassSample]) -> dict[str, float]:
    """The costs by kernel, such as "forward s/MAC winograd": not negative, with the least relative errors."""
    found: dict[str, list[tuple[Mapping[str, float], float]]] = {}
    for sample in samples:
        kernel, sizes = _sizes(sample.name, sample.spec)
        found.setdefault(kernel, []).append((sizes, sample.seconds))
    return {key: cost for members in found.values() for key, cost in _fit(members).items()}


def _sizes(name: PassName, spec: ConvSpec) -> tuple[str, dict[str, float]]:
    """The kernel that computes a pass, and what it costs: the names of the costs, and how often each counts."""
    turned = mirrored(spec) if name == "input" else None
    kernel = "forward" if turned is not None else name
    used = turned or spec
    kind = kernel_class(used)
    packed = " winograd" if kernel == "forward" and kind == "winograd" else ""
    return kernel, {
        f"{kernel} s/MAC {kind}": used.macs,
        f"{kernel} s/element": used.input_elements + used.output_elements,
        f"{kernel} s/weight{packed}": used.weight_elements,
        f"{kernel} s": 1.0,
    }


SWEEPS = 3000


def _fit(members: list[tuple[Mapping[str, float], float]]) -> dict[str, float]:
    """Non-negative least squares by coordinate descent, each sample in units of its time."""
    names = sorted({name for sizes, _ in members for name in sizes})
    design = np.array([[sizes.get(name, 0.0) / seconds for name in names] for sizes, seconds in members])
    scale = np.linalg.norm(design, axis=0)
    design /= scale
    found, rest = np.zeros(len(names)), np.ones(len(members))
    for _ in range(SWEEPS):
        for at in range(len(names)):
            step = max(-found[at], float(design[:, at] @ rest))
            found[at] += step
            rest -= step * design[:, at]
    return dict(zip(names, (float(value) for value in found / scale), strict=True))


REFERENCE_GAMMA, REFERENCE_COPY = 6.2e-12, 1.9e-11
"""γ ("default") and seconds per copied byte of the device whose costs are REFERENCE: one core, AVX-512."""

REFERENCE = {
    "forward s": 1.78e-4,
    "forward s/MAC depthwise": 5.9e-12,
    "forward s/MAC direct": 7.7e-12,
    "forward s/MAC direct1x1": 6.0e-12,
    "forward s/MAC first": 1.06e-11,
    "forward s/MAC grouped": 1.58e-11,
    "forward s/MAC winograd": 4.1e-12,
    "forward s/element": 6.6e-10,
    "forward s/weight": 3.3e-9,
    "forward s/weight winograd": 1.4e-8,
    "input s": 1.7e-5,
    "input s/MAC depthwise": 5.0e-11,
    "input s/MAC direct": 9.3e-12,
    "input s/MAC direct1x1": 8.3e-12,
    "input s/MAC first": 6.4e-11,
    "input s/element": 2.8e-10,
    "input s/weight": 1.3e-9,
    "weight s/MAC depthwise": 4.5e-11,
    "weight s/MAC direct": 9.8e-12,
    "weight s/MAC direct1x1": 8.8e-12,
    "weight s/MAC first": 2.6e-11,
    "weight s/MAC grouped": 4.2e-11,
    "weight s/MAC winograd": 3.5e-12,
    "weight s/element": 2.9e-10,
    "weight s/weight": 6.8e-10,
}
"""Fitted to 500 passes of 32 convs, batches of 1 to 16, in processor time: their mean error is 14 %."""


def _assumed(device: Device) -> dict[str, float]:
    """Kernels by the ratio of γ, which is of all threads; packing by that of copies in memory, where it is known."""
    all_threads = device.gamma() / REFERENCE_GAMMA
    one_thread = all_threads * device.threads
    packing = min(one_thread, device.copy_s_per_byte / REFERENCE_COPY) if device.copy_s_per_byte else one_thread

    def ratio(key: str) -> float:
        if "s/MAC" not in key:
            return packing
        return all_threads if key.startswith("forward") else one_thread

    return {key: cost * ratio(key) for key, cost in REFERENCE.items()}
