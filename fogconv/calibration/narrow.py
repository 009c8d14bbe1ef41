"""Narrow: what devices measure of steps whose elements are narrower than fp32, which networks have such steps, and which
devices have no instruction for them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import msgspec

from fogconv.calibration.devices import PAD, QUICK, THIN, Figures
from fogconv.hardware.profile import ProfileDevice
from fogconv.hardware.topology import NARROW, Device, Topology
from fogconv.ir.geometry import ConvSpec, MapSpec, StepSpec
from fogconv.ir.graph import LayerGraph
from fogconv.ir.layers import Conv
from fogconv.ir.layout import MASTER
from fogconv.ir.precision.elements import HALVES, Element

_BYTES: Element = "uint8"
_QUICK = tuple(spec for spec in QUICK if spec not in THIN)
INT8 = tuple(
    replace(spec, element=_BYTES)
    for spec in (
        *_QUICK,
        ConvSpec(256, 256, 14, 14, (3, 3), padding=PAD),
        ConvSpec(512, 512, 14, 14, (1, 1)),
        ConvSpec(128, 128, 28, 28, (3, 3), padding=PAD, groups=32),
        ConvSpec(3, 64, 112, 112, (7, 7), stride=(2, 2), padding=(3, 3, 3, 3)),
    )
)
"""Of every class of 8-bit convs, for a full measurement."""
INT8_MAPS = (
    MapSpec("convert", 64, 56, 56),
    *(
        replace(spec, element=_BYTES)
        for spec in (
            MapSpec("add", 256, 28, 28, sources=2),
            MapSpec("pool", 64, 56, 56, kernel=(3, 3), stride=(2, 2)),
            MapSpec("globalpool", 1024, 14, 14),
            MapSpec("gate", 240, 28, 28),
            MapSpec("convert", 64, 56, 56),
        )
    ),
)
"""Other steps on bytes, and the conversions from and to them."""
HALF_MAPS = (
    MapSpec("add", 256, 28, 28, sources=2),
    MapSpec("pool", 64, 56, 56, kernel=(3, 3), stride=(2, 2)),
    MapSpec("globalpool", 1024, 14, 14),
    MapSpec("gate", 240, 28, 28),
    MapSpec("convert", 64, 56, 56),
)
"""Other steps on maps of 16 bits, and the conversion from them."""
QUICK_STEPS: Mapping[Element, tuple[StepSpec, ...]] = {
    "uint8": (*(replace(spec, element=_BYTES) for spec in _QUICK), INT8[-1], *INT8_MAPS),
    **{
        half: (
            *(replace(spec, element=half) for spec in (*_QUICK, replace(INT8[-1], element="fp32"))),
            *(replace(spec, element=half) for spec in HALF_MAPS),
        )
        for half in HALVES
    },
}
"""By their elements."""


def elements_of(graph: LayerGraph) -> frozenset[Element]:
    """What its convs multiply, but for fp32, which every device measures."""
    return frozenset(layer.spec.element for layer in graph.layers if isinstance(layer, Conv)) - {"fp32"}


def missing(device: ProfileDevice, elements: Collection[Element]) -> tuple[StepSpec, ...]:
    """The steps, convs first, of elements of which nothing is known of the device."""
    specs = [
        spec
        for element in sorted(elements)
        if not any(kind.startswith(f"{element}_") for kind in device.map_s_per_byte)
        for spec in QUICK_STEPS.get(element, ())
    ]
    return tuple(sorted(specs, key=lambda spec: isinstance(spec, MapSpec)))


def with_figures(device: ProfileDevice, figures: Figures) -> ProfileDevice:
    """The device with the rates that it lacked."""
    gamma = {**figures.gamma_s_per_mac, **device.gamma_s_per_mac}
    maps = {**figures.map_s_per_byte, **device.map_s_per_byte}
    return msgspec.structs.replace(device, gamma_s_per_mac=gamma, map_s_per_byte=maps)


def without_instruction(
    graph: LayerGraph, topology: Topology, multiplies: Mapping[int, Collection[Element]] | None = None
) -> str:
    """A sentence about the ranks that multiply the network's narrow elements one by one, and what that costs by their rates;
    empty where there are none. ``multiplies``: by rank, the elements of which one instruction multiplies several; by default
    what is known of the devices."""
    if multiplies is None:
        known = {rank: device.multiplies for rank, device in enumerate(topology.devices)}
        multiplies = {rank: each for rank, each in known.items() if each is not None}
    found = []
    for element in sorted(elements_of(graph)):
        ranks = sorted(rank for rank, known in multiplies.items() if element not in known)
        if ranks:
            costs = [f"{_times_as_long(graph, topology.devices[rank], element):.2f}" for rank in ranks]
            least, most = min(costs, key=float), max(costs, key=float)
            found.append(
                f"{_named(ranks)} {'has' if len(ranks) == 1 else 'have'} no instruction for {NARROW[element]}: convolutions "
                f"take {least if least == most else f'{least} to {most}'} times as long there as in fp32"
            )
    return "; ".join(found)


def _times_as_long(graph: LayerGraph, device: Device, element: Element) -> float:
    """All convs of this element, over the same ones in fp32."""
    specs = [layer.spec for layer in graph.layers if isinstance(layer, Conv) and layer.spec.element == element]
    return sum(map(device.conv_s, specs)) / sum(device.conv_s(replace(spec, element="fp32")) for spec in specs)


MOST_NAMED = 3


def _named(ranks: Sequence[int]) -> str:
    """ "the master", "worker 1", "the master and worker 1", "5 of the ranks" """
    if len(ranks) > MOST_NAMED:
        return f"{len(ranks)} of the ranks"
    names = ["the master" if rank == MASTER else f"worker {rank}" for rank in ranks]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
