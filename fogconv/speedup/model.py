"""The analytic model of Dey et al. (CitiFog 2018): what one conv layer costs at home, and what it costs on n workers.

    c, f   input, output channels        γ   seconds per MAC on one device            (Rates.gamma)
    g      groups                        α   seconds per message                      (Rates.alpha)
    K²     K_h·K_w                       β   seconds per element on the wire          (Rates.beta)
    H×W    input size                    M   elements per message                     (Rates.message)
    h×w    output size                   n   remote workers = p input groups × q output groups

    T_local = K²·(c/g)·f·h·w·γ
    T_cld   = T_part + n·(T_tx + T_rx) + T_edge + T_join
    S       = T_local ÷ (c·H·W + f·h·w)·(α/M + β)        the limit of T_local/T_cld as n grows, cutting and joining free;
                                                         K²·c·f·γ / (g·(c+f)·(α/M+β)) where input and output are of one size
    S_star  = T_local ÷ (q·c·H·W + p·f·h·w)·(α/M + β)    over unicast links, the best over p·q = n

A grouped conv splits along whole groups instead: every worker gets its own channels only, so that its S_star is S.

All of this is for equal devices on equal links (Rates). `fogconv.speedup.trigger` computes real shards on a Topology.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from fogconv.errors import InputError
from fogconv.ir.geometry import BLOCK, BYTES_PER_ELEMENT, ConvSpec


@dataclass(frozen=True, slots=True)
class Rates:
    """The costs of equal devices on equal links, in the paper's symbols. Raises InputError for impossible figures.

    ``gamma``: s per MAC. ``alpha``: s per message. ``beta``: s per element. ``message``: M, elements per message, None where
    a transfer of any size is one message. ``copy``: s per element cut, joined or summed at the master. ``wake``: s until a
    sleeping radio sends its first byte, per transfer. ``step``: fixed s per kernel call.
    """

    gamma: float
    beta: float
    alpha: float = 0.0
    message: int | None = None
    copy: float = 0.0
    wake: float = 0.0
    step: float = 0.0

    def __post_init__(self) -> None:
        for name in ("gamma", "beta"):
            value = getattr(self, name)
            if not (value > 0 and math.isfinite(value)):
                raise InputError(f"{name} is {value}; it must be positive")
        for name in ("alpha", "copy", "wake", "step"):
            value = getattr(self, name)
            if not (value >= 0 and math.isfinite(value)):
                raise InputError(f"{name} is {value}; it must not be negative")
        if self.message is not None and self.message < 1:
            raise InputError(f"a message of {self.message} elements: there must be at least 1")

    @property
    def bandwidth_bytes_per_s(self) -> float:
        return BYTES_PER_ELEMENT / self.beta

    def scaled(self, factor: float) -> Rates:
        """Everything ``factor`` times as slow."""
        return Rates(
            self.gamma * factor,
            self.beta * factor,
            self.alpha * factor,
            self.message,
            self.copy * factor,
            self.wake * factor,
            self.step * factor,
        )

    def transfer_s(self, elements: float) -> float:
        """One transfer: wake-up + ⌈elements ÷ M⌉·α + elements·β."""
        messages = 1 if self.message is None else math.ceil(elements / self.message)
        return self.wake + messages * self.alpha + elements * self.beta

    def wire_s(self, elements: float) -> float:
        """The least time for so many elements: elements·(α/M + β); one message where M is unbounded."""
        return elements * self.beta + self.alpha * (1 if self.message is None else elements / self.message)


@dataclass(frozen=True, slots=True)
class Split:
    """How a layer is cut: ``p`` input groups × ``q`` output groups, or ``groups`` parts along whole groups."""

    p: int = 1
    q: int = 1
    groups: int = 1

    @property
    def parts(self) -> int:
        return self.p * self.q * self.groups

    def __str__(self) -> str:
        if self.groups > 1:
            return f"groups:{self.groups}"
        if self.p == 1:
            return f"output:{self.q}"
        return f"input:{self.p}" if self.q == 1 else f"grid:{self.p}x{self.q}"


@dataclass(frozen=True, slots=True)
class Terms:
    """The five terms of T_cld in seconds. ``tx_s`` and ``rx_s`` are for all workers: n·T_tx and n·T_rx."""

    part_s: float
    tx_s: float
    edge_s: float
    rx_s: float
    join_s: float

    @property
    def total_s(self) -> float:
        """T_cld."""
        return self.part_s + self.tx_s + self.edge_s + self.rx_s + self.join_s

    def __add__(self, other: Terms) -> Terms:
        return Terms(
            self.part_s + other.part_s,
            self.tx_s + other.tx_s,
            self.edge_s + other.edge_s,
            self.rx_s + other.rx_s,
            self.join_s + other.join_s,
        )


@dataclass(frozen=True, slots=True)
class Whole:
    """Seconds of a whole inference, pools, sums and linear layers included, as `fogconv.simulation.prediction` has them: on
    the master alone, with every conv distributed, and by the trigger's decisions."""

    home_s: float
    all_s: float
    chosen_s: float


def t_local(spec: ConvSpec, rates: Rates) -> float:
    """T_local = N·K²·(c/g)·f·h·w·γ (+ one step), in seconds."""
    return spec.macs * rates.gamma + rates.step


def t_part(spec: ConvSpec, rates: Rates) -> float:
    """T_part: cutting the IFM into shards on the master. Each element is copied once, even if it is sent several
    times."""
    return spec.input_elements * rates.copy


def t_tx(spec: ConvSpec, rates: Rates, split: Split) -> float:
    """T_tx: sending one worker its IFM shard, c/p channels. The filters were shipped once and are not counted."""
    return rates.transfer_s(spec.input_elements / (split.p * split.groups))


def t_edge(spec: ConvSpec, rates: Rates, split: Split) -> float:
    """T_edge: computing the intermediate OFMs on all workers: the time of the largest shard."""
    return _largest_macs(spec, split) * rates.gamma + rates.step


def t_rx(spec: ConvSpec, rates: Rates, split: Split) -> float:
    """T_rx: one worker's return, f/q channels."""
    return rates.transfer_s(spec.output_elements / (split.q * split.groups))


def t_join(spec: ConvSpec, rates: Rates, split: Split) -> float:
    """T_join: summing the p partial OFMs of each output group and concatenating the q groups: p·f·h·w elements."""
    return split.p * spec.output_elements * rates.copy


def t_cld(spec: ConvSpec, rates: Rates, split: Split, *, master_computes: bool = False) -> Terms:
    """The terms of T_cld = T_part + n·(T_tx + T_rx) + T_edge + T_join, n = p·q.

    With ``master_computes`` one of the p·q shards is the master's: n − 1 are sent, and its own is neither cut nor joined.
    Raises InputError for a split into more channels than there are.
    """
    check_split(spec, split)
    travelling = split.parts - 1 if master_computes else split.parts
    share = travelling / split.parts
    return Terms(
        t_part(spec, rates) * share,
        travelling * t_tx(spec, rates, split) if travelling else 0.0,
        t_edge(spec, rates, split),
        travelling * t_rx(spec, rates, split) if travelling else 0.0,
        t_join(spec, rates, split) * share,
    )


def s_paper(spec: ConvSpec, rates: Rates) -> float:
    """S: no number of workers gives more than this over links where a broadcast costs one transmission."""
    return t_local(spec, rates) / (rates.wire_s(spec.input_elements) + rates.wire_s(spec.output_elements))


def s_split(spec: ConvSpec, rates: Rates, split: Split, *, master_computes: bool = False) -> float:
    """T_local divided by the wire time of one split: the bound of unicast links."""
    travelling = split.parts - 1 if master_computes else split.parts
    if not travelling:
        return math.inf
    sent = spec.input_elements / (split.p * split.groups)
    returned = spec.output_elements / (split.q * split.groups)
    return t_local(spec, rates) / (travelling * (rates.wire_s(sent) + rates.wire_s(returned)))


def s_star(spec: ConvSpec, rates: Rates, n: int, *, master_computes: bool = False) -> float:
    """S_star: the best of ``s_split`` over p·q = n, the bound over unicast links for n remote workers.

    With ``master_computes`` there are n + 1 shards of which n are sent. A layer with too few channels (or groups) for n
    uses as many workers as it can.
    """
    parts = _workers(n) + 1 if master_computes else _workers(n)
    for m in range(parts, 1 if master_computes else 0, -1):
        bounds = [s_split(spec, rates, split, master_computes=master_computes) for split in splits(spec, m)]
        if bounds:
            return max(bounds)
    return s_split(spec, rates, Split())  # a single channel: it goes to a worker or stays


def most_gain(spec: ConvSpec, rates: Rates, n: int, *, master_computes: bool = False) -> float:
    """What at most n remote workers can gain: the greatest min(m, S_star(m)) over the numbers m ≤ n.

    m counts the ranks that compute, so that with ``master_computes`` it is one more than the workers. No T_local ÷ T_cld
    over at most n equal workers is greater: computing takes at least T_local ÷ m, and the wire takes its time.
    """
    parts = _workers(n) + 1 if master_computes else _workers(n)
    bounds = [
        min(float(m), s_split(spec, rates, split, master_computes=master_computes))
        for m in range(2 if master_computes else 1, parts + 1)
        for split in splits(spec, m)
    ]
    return max(bounds, default=min(1.0, s_split(spec, rates, Split())))


def splits(spec: ConvSpec, parts: int) -> Iterator[Split]:
    """All ways to cut the layer into so many parts: p·q = parts with p ≤ c and q ≤ f, or whole groups."""
    if spec.groups > 1:
        if parts <= spec.groups:
            yield Split(groups=parts)
        return
    for p in range(1, min(parts, spec.in_channels) + 1):
        if parts % p == 0 and parts // p <= spec.out_channels:
            yield Split(p, parts // p)


def best_split(spec: ConvSpec, rates: Rates, n: int, *, master_computes: bool = False) -> tuple[Split, Terms]:
    """The split with the least T_cld over at most n remote workers (and the master, where it computes)."""
    parts = _workers(n) + 1 if master_computes else _workers(n)
    first = 2 if master_computes else 1
    candidates = (split for m in range(first, parts + 1) for split in splits(spec, m))
    priced = [(split, t_cld(spec, rates, split, master_computes=master_computes)) for split in candidates]
    if not priced:  # a single channel: it goes to a worker or stays
        return Split(), t_cld(spec, rates, Split())
    return min(priced, key=lambda pair: pair[1].total_s)


def estimate(spec: ConvSpec, rates: Rates, n: int, *, master_computes: bool = False) -> float:
    """T_local ÷ T_cld of the best split over at most n remote workers."""
    return t_local(spec, rates) / best_split(spec, rates, n, master_computes=master_computes)[1].total_s


def best_n(spec: ConvSpec, rates: Rates, n_max: int = 1024, *, master_computes: bool = False) -> int:
    """The number of remote workers, 1 … n_max, at which T_local ÷ T_cld is greatest (the least such number)."""
    split, _ = best_split(spec, rates, n_max, master_computes=master_computes)
    return max(1, split.parts - 1) if master_computes else split.parts


def energy_j(spec: ConvSpec, split: Split | None, joules_per_mac: float, joules_per_byte: float) -> float:
    """Joules for one layer: every MAC, and every byte sent (sending and receiving together). ``split`` None: all on the
    master."""
    if min(joules_per_mac, joules_per_byte) < 0:
        raise InputError(f"{joules_per_mac} J per MAC and {joules_per_byte} J per byte: neither may be negative")
    elements = 0 if split is None else split.q * spec.input_elements + split.p * spec.output_elements
    return spec.macs * joules_per_mac + elements * BYTES_PER_ELEMENT * joules_per_byte


def break_even_bandwidth(
    spec: ConvSpec, rates: Rates, n: int, *, threshold: float = 1.0, master_computes: bool = False
) -> float | None:
    """The least bandwidth, in bytes per second, at which T_local ÷ T_cld reaches ``threshold`` with at most n workers.

    None where no bandwidth is enough, because γ, α and the copies alone take too long. T_cld is linear in β for
    each split, so this is exact.
    """
    budget = t_local(spec, rates) / _threshold(threshold)
    parts = _workers(n) + 1 if master_computes else _workers(n)
    betas = []
    for split in (split for m in range(1, parts + 1) for split in splits(spec, m)):
        travelling = split.parts - 1 if master_computes else split.parts
        if not travelling:
            continue
        elements = travelling * (spec.input_elements / split.p + spec.output_elements / split.q) / split.groups
        fixed = t_cld(spec, rates, split, master_computes=master_computes).total_s - elements * rates.beta
        betas.append((budget - fixed) / elements)
    beta = max(betas, default=0.0)
    return BYTES_PER_ELEMENT / beta if beta > 0 else None


def least_depth(
    rates: Rates,
    kernel: tuple[int, int] = (3, 3),
    size: int = 14,
    *,
    n: int | None = None,
    threshold: float = 1.0,
    master_computes: bool = False,
    deepest: int = 8192,
) -> int | None:
    """The least c = f at which a dense conv of stride 1 pays: S > threshold, or, for n workers, T_local ÷ T_cld > threshold.

    Use it to judge a fixed rule such as "more than 60 channels". None where even ``deepest`` channels don't pay.
    """
    threshold = _threshold(threshold)

    def gain(layer: ConvSpec) -> float:
        return s_paper(layer, rates) if n is None else estimate(layer, rates, n, master_computes=master_computes)

    return least_depth_by(lambda layer: gain(layer) > threshold, kernel, size, deepest)


def least_depth_by(
    worth: Callable[[ConvSpec], bool], kernel: tuple[int, int] = (3, 3), size: int = 14, deepest: int = 8192
) -> int | None:
    """The least c = f at which a dense conv of stride 1 is ``worth`` it; None where not even ``deepest`` channels are."""
    spec = ConvSpec(1, 1, size, size, kernel, padding=_same(kernel))

    def pays(depth: int) -> bool:
        return worth(replace(spec, in_channels=depth, out_channels=depth))

    if not pays(deepest):
        return None
    # S is monotone in c; the estimate is nearly so (blocks of 16 channels make steps), hence the walk after the
    # bisection.
    low, high = 0, deepest
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if pays(middle) else (middle, high)
    return next((depth for depth in range(max(1, high - 2 * BLOCK), high) if pays(depth)), high)


def check_split(spec: ConvSpec, split: Split) -> None:
    """Raises InputError unless the layer has enough channels or groups for the split."""
    if min(split.p, split.q, split.groups) < 1:
        raise InputError(f"{split}: there must be at least one part each way")
    if spec.groups > 1:
        if split.p * split.q > 1 or split.groups > spec.groups:
            raise InputError(
                f"{split}: a conv of {spec.groups} groups splits into at most {spec.groups} parts, by whole groups"
            )
    elif split.groups > 1 or split.p > spec.in_channels or split.q > spec.out_channels:
        raise InputError(
            f"{split}: the layer has {spec.in_channels} input and {spec.out_channels} output channels in one group"
        )


def _largest_macs(spec: ConvSpec, split: Split) -> int:
    area = spec.batch * spec.out_height * spec.out_width * spec.kernel[0] * spec.kernel[1]
    if spec.groups > 1:
        per_group = (spec.in_channels // spec.groups) * (spec.out_channels // spec.groups)
        grain_rule = spec.out_channels == spec.groups
        groups = _largest_part(spec.groups, split.groups) if grain_rule else -(-spec.groups // split.groups)
        return area * groups * per_group
    return area * _largest_part(spec.in_channels, split.p) * _largest_part(spec.out_channels, split.q)


def _largest_part(channels: int, parts: int) -> int:
    """As partition.split_channels cuts for equal devices: whole blocks of 16 where there are two for each part."""
    grain = BLOCK if channels >= 2 * BLOCK * parts else 1
    return min(channels, math.ceil(math.ceil(channels / grain) / parts) * grain)


def _same(kernel: tuple[int, int]) -> tuple[int, int, int, int]:
    kh, kw = kernel
    return ((kh - 1) // 2, kh // 2, (kw - 1) // 2, kw // 2)


def _workers(n: int) -> int:
    if n < 1:
        raise InputError(f"{n} workers: there must be at least 1")
    return n


def _threshold(threshold: float) -> float:
    if not (threshold > 0 and math.isfinite(threshold)):
        raise InputError(f"the threshold is {threshold}; here it must be positive")
    return threshold
