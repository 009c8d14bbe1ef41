"""What ranks send, recorded in runs: no pinned tensor, no weights of a pinned layer, no picture that stays at home.

Each tensor of the network here has an order of magnitude of its own, so that a sent value says of which tensor it is; a part
of a map, a partial sum and a sum for a check do, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fogconv.cluster.protocol import codec
from fogconv.cluster.protocol import messages as m
from fogconv.cluster.protocol.codec import Frame
from fogconv.hardware.topology import Topology
from fogconv.ir.geometry import ConvSpec, PoolSpec
from fogconv.ir.graph import LayerGraph
from fogconv.ir.guard import Protection
from fogconv.ir.layers import Conv, Layer, Pool, Tensor
from fogconv.ir.steps import Pixels, Send
from fogconv.planning.plan_options import PlanOptions
from fogconv.planning.schemes import ONE_FRAME, Scheme
from fogconv.runtime.engine import Engine
from fogconv.runtime.run_options import RunOptions
from tests.cluster.cluster_of import eventually
from tests.cluster.fault_cluster import FaultCluster, FaultyHub, assert_near
from tests.graph_reference import run_graph

pytestmark = pytest.mark.alone

APART = 1e5
"""A sum of all channels, or of some of them, is not so far from their mean."""
POWERS = {"x": 0, "conv0": 1, "conv1": 3, "pool": 2, "conv2": 4, "conv3": 5, "conv4": 6}
"""The values of a layer's output are near this power of APART."""
CHANNELS = (3, 24, 24, 40, 40, 24)
"""No multiples of 16: the blocks of the kernels' maps have lanes that are no one's."""
SIDE = 16
DATA = np.dtype("<f4")
BYTES = (64, 192)
"""The pixels' range. The first byte of none of their normalised values is in it."""
PIXELS = Pixels((0.0,) * 3, (0.5,) * 3)

AT_HOME = ("x", "conv0", "conv1")
"""Before the pooling."""
FIRST = ("conv0-1=0", "pool=0")
LATER = ("conv2-3=2",)
PINNED: dict[str, tuple[dict[str, Any], tuple[str, ...], dict[str, int]]] = {
    "pins to the master": ({"pins": FIRST}, AT_HOME, {"conv0": 0, "conv1": 0}),
    "pins to a worker": ({"pins": LATER}, ("conv2",), {"conv2": 2, "conv3": 2}),
    "an input at home": ({"keep_input_home": True}, AT_HOME, {"conv0": 0, "conv1": 0}),
}
"""The options, the tensors that no rank sends, and the only rank that gets a layer's weights."""
USED = {"pins to the master": 1, "pins to a worker": 2, "an input at home": 1}
"""A worker that every scheme uses then."""
CASES = [
    (scheme, limit)
    for scheme in ONE_FRAME
    for limit in PINNED
    if (scheme, limit) != (Scheme.STAR, "pins to a worker")  # refused: see tests/planning/limits/test_pins.py
]


@cache
def network() -> LayerGraph:
    """Four convs of 3×3, the third's output also added to the fourth's, a pooling between the first two and the others, and
    a conv of 1×1: (1, 3, 16, 16) → (1, 24, 8, 8)."""
    rng = np.random.default_rng(5)
    weights: dict[str, NDArray[Any]] = {}
    tensors = [Tensor("x", 1, 3, SIDE, SIDE)]
    layers: list[Layer] = []

    def conv(name: str, channels: int, kernel: int = 3, residual: int | None = None) -> None:
        source, pad, before = len(tensors) - 1, kernel // 2, tensors[-1]
        spec = ConvSpec(before.channels, channels, before.height, before.width, (kernel, kernel), padding=(pad,) * 4)
        jump = POWERS[name] - POWERS[before.name]
        values = rng.uniform(0.5, 1.5, spec.weight_shape) * APART**jump / (before.channels * kernel * kernel)
        weights[name] = values.astype(np.float32)
        layers.append(Conv(name, source, len(tensors), spec, name, None, "relu", residual))
        tensors.append(Tensor(name, 1, channels, before.height, before.width))

    conv("conv0", CHANNELS[1])
    conv("conv1", CHANNELS[2])
    down = PoolSpec("avg", CHANNELS[2], SIDE, SIDE, (2, 2), (2, 2), divisor=4 * int(APART))
    layers.append(Pool("pool", 2, 3, down))
    tensors.append(Tensor("pool", 1, CHANNELS[2], SIDE // 2, SIDE // 2))
    conv("conv2", CHANNELS[3])
    conv("conv3", CHANNELS[4], residual=4)
    conv("conv4", CHANNELS[5], 1)
    last = len(tensors) - 1
    return LayerGraph.single("powers", tuple(tensors), tuple(layers), 0, last, tensors[last].shape, weights)


@cache
def image(seed: int = 0) -> NDArray[np.float32]:
    """Of 8 bits, normalised as PIXELS says: 0.5 to 1.5."""
    photo = np.random.default_rng(seed).integers(*BYTES, (1, 3, SIDE, SIDE))
    return photo.astype(np.float32) / np.float32(255) / np.float32(0.5)


@cache
def answer(seed: int = 0) -> NDArray[Any]:
    return run_graph(network(), image(seed))


class Spy(FaultyHub):
    """Keeps what is sent: of which tensors, and to whom weights of which layers."""

    def __init__(self) -> None:
        super().__init__()
        self.tensors: set[str] = set()
        self.weights: set[tuple[str, str]] = set()
        self.probes: set[int] = set()
        self._values = {layer: set(array.ravel().tolist()) for layer, array in network().weights.items()}

    def _route(self, origin: str, to: str, frames: Sequence[Frame]) -> None:
        message, payloads = codec.decode(frames)
        match message:
            case m.Data():
                self.tensors |= tensors_of(payloads[0])
            case m.Weight():
                values = set(np.frombuffer(payloads[0], DATA).tolist())
                self.weights |= {(layer, to) for layer, own in self._values.items() if values <= own}
            case m.Ping() | m.Pong():
                self.probes |= set(bytes(payloads[0]))
        super()._route(origin, to, frames)


def tensors_of(payload: Frame) -> set[str]:
    """The tensors whose values a message has, known by their powers; zeros are of none. Pixels are of the picture."""
    raw = np.frombuffer(payload, np.uint8)
    if len(raw) and ((raw >= BYTES[0]) & (raw < BYTES[1])).all():
        return {"x"}
    values = np.frombuffer(payload, DATA)
    assert np.isfinite(values).all() and (values >= 0).all()
    names = {power: name for name, power in POWERS.items()}
    powers = np.floor(np.log(values[values != 0] * 1e3) / np.log(APART))
    return {names[int(power)] for power in np.unique(powers)}


def engine_of(
    cluster: FaultCluster,
    scheme: str,
    limit: str = "",
    *,
    like: float = 1e10,
    early: bool = False,
    rehearse: bool = False,
    **options: Any,
) -> Engine:
    """Links of ``like`` bytes/s, which cost next to nothing by default, and a first worker faster than the others: all
    schemes use them."""
    topology = Topology.uniform(cluster.session.ranks, 1e9, like, 1e-6, copy_s_per_byte=1e-11, step_s=1e-7)
    topology = topology.replace_device(1, topology.devices[1].scaled(3.0))
    given = {"threshold": 0.0, "pixels": PIXELS, **(PINNED[limit][0] if limit else {}), **options}
    run_options = RunOptions(adapt=False, early=early, rehearse=rehearse)
    return Engine(network(), cluster.session, topology, PlanOptions(scheme, **given), run_options)


def assert_right(output: NDArray[Any], seed: int = 0) -> None:
    assert_near(output, answer(seed))


def assert_kept(spy: Spy, cluster: FaultCluster, limit: str) -> None:
    _, stays, ranks = PINNED[limit]
    assert spy.tensors and not spy.tensors & set(stays)
    addresses = ["master", *cluster.names]
    for layer, to in spy.weights:
        assert layer not in ranks or to == addresses[ranks[layer]]
    assert spy.probes <= {0}


@pytest.mark.parametrize(("scheme", "limit"), CASES)
def test_no_rank_sends_what_is_pinned_not_even_after_a_loss(scheme: Scheme, limit: str) -> None:
    """The worker with pinned layers, or the fastest, is lost in the middle of an inference, and another one between two."""
    with FaultCluster(3, hub=(spy := Spy())) as cluster:
        engine = engine_of(cluster, scheme, limit)
        begin = cluster.hub.number
        assert_right(engine.run(image()).output)
        first = USED[limit]
        assert first in engine.plan.active_ranks
        cluster.cut_at(first, (cluster.hub.number - begin) // 2)
        for rank in (first, 3):

            def lost(rank: int = rank) -> bool:
                assert_right(engine.run(image()).output)
                return rank not in engine.ranks

            eventually(lost)
            if 3 in engine.ranks:
                cluster.cut(3)
        assert_kept(spy, cluster, limit)


@pytest.mark.parametrize("scheme", [Scheme.STAR, Scheme.ROWS, Scheme.TILES, Scheme.DEPTH])
def test_without_pins_the_same_tensors_are_sent(scheme: Scheme) -> None:
    with FaultCluster(3, hub=(spy := Spy())) as cluster:
        assert_right(engine_of(cluster, scheme).run(image()).output)
    assert {"x", "conv2"} <= spy.tensors
    assert ("conv0", cluster.names[0]) in spy.weights


@pytest.mark.parametrize("limit", PINNED)
def test_a_worker_that_comes_back_and_one_that_was_rehearsed_for_get_no_more(limit: str) -> None:
    with FaultCluster(3, hub=(spy := Spy())) as cluster:
        engine = engine_of(cluster, "rows", limit, rehearse=True)
        for rank in (1, 2):
            cluster.cut(rank)
            assert_right(engine.run(image()).output)
            assert rank not in engine.ranks
            cluster.restart(rank)

            def part(rank: int = rank) -> bool:
                assert_right(engine.run(image()).output)
                return rank in engine.ranks

            eventually(part)
        assert_kept(spy, cluster, limit)


@pytest.mark.parametrize("limit", PINNED)
def test_inferences_before_all_weights_are_there_and_frames_of_a_stream_send_no_more(limit: str) -> None:
    with FaultCluster(3, hub=(spy := Spy())) as cluster:
        engine = engine_of(cluster, "offload", limit, early=True)

        def all_there() -> bool:
            assert_right(engine.run(image()).output)
            return engine.all_there

        eventually(all_there)
        rank = USED[limit]
        cluster.cut_at(rank, 9)
        outputs = list(engine.stream((image(seed) for seed in range(6)), 3))
        assert len(outputs) == 6 and rank not in engine.ranks
        for seed, output in enumerate(outputs):
            assert_right(output, seed)
        assert_kept(spy, cluster, limit)


@pytest.mark.parametrize("protection", [Protection(verify=True), Protection(redundancy=1)], ids=["verified", "coded"])
@pytest.mark.parametrize("limit", ["pins to the master", "an input at home"])
def test_checked_and_coded_pieces_hold_nothing_of_it(limit: str, protection: Protection) -> None:
    with FaultCluster(3, hub=(spy := Spy())) as cluster:
        engine = engine_of(cluster, Scheme.STAR, limit, protection=protection)
        assert_right(engine.run(image()).output)
        cluster.cut_at(1, 3)
        assert_right(engine.run(image()).output)
        assert_kept(spy, cluster, limit)


def test_a_picture_sent_as_bytes_is_seen_too() -> None:
    for limit, sent in (("", True), ("an input at home", False)):
        with FaultCluster(3, hub=(spy := Spy())) as cluster:
            engine = engine_of(cluster, "rows", limit, like=1e8)
            assert_right(engine.run(image()).output)
            steps = [step for step in engine.programs[0].steps if isinstance(step, Send)]
            assert any(step.pixels for step in steps) == ("x" in spy.tensors) == sent
