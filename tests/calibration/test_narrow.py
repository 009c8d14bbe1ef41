"""Steps on narrow elements: measured where a network has them, and there only."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from fogconv.calibration.cache import remembered_rates
from fogconv.calibration.calibration import calibrate_quickly
from fogconv.calibration.narrow import INT8_MAPS, QUICK_STEPS, elements_of, missing, without_instruction
from fogconv.cluster.executor.executors import executor
from fogconv.cluster.executor.microbenchmark import NoMailbox, map_program
from fogconv.frontend import zoo_graphs
from fogconv.hardware.presets import presets
from fogconv.hardware.profile import Profile
from fogconv.hardware.topology import HERE, Device, Link, Topology
from fogconv.ir.geometry import ConvSpec, MapSpec
from fogconv.ir.memory.algorithm import Vectors
from fogconv.ir.precision.elements import Element
from fogconv.quantization.precision import for_shapes
from tests.calibration.test_devices import FakeSession, local, own_s

pytestmark = pytest.mark.alone


def test_a_network_names_its_elements() -> None:
    graph = zoo_graphs.graph("squeezenet1_1")
    assert elements_of(graph) == frozenset()
    assert elements_of(for_shapes(graph, "int8")) == {"uint8"}


def test_rates_of_bytes_are_measured_once_where_they_are_wanted(tmp_path: Path) -> None:
    session = FakeSession()
    plain = calibrate_quickly(session, cache=tmp_path, local=local).topology.devices[1]
    assert not [kind for kind in plain.gamma_s_per_mac if kind.startswith("int8")]
    before = len(session.measured)
    for _ in range(2):
        found = calibrate_quickly(session, cache=tmp_path, local=local, elements={"uint8"}).topology
        assert len(session.measured) == before + 1, "both workers at once, and once only"
        for rank, gamma in enumerate((5e-11, 1e-10, 4e-10)):
            for spec in QUICK_STEPS["uint8"]:
                if isinstance(spec, ConvSpec) and spec.kernel != (1, 1):
                    assert found.devices[rank].conv_s(spec) == pytest.approx(1e-5 + own_s(spec, gamma), rel=0.1)
    assert all("int8_default" in known.device.gamma_s_per_mac for known in remembered_rates(tmp_path))
    known = next(remembered_rates(tmp_path)).device
    assert not missing(known, {"uint8"})
    assert missing(msgspec.structs.replace(known, map_s_per_byte={}), {"uint8"}) == QUICK_STEPS["uint8"]


@pytest.mark.parametrize("spec", INT8_MAPS, ids=lambda spec: spec.costs_as)
def test_every_step_that_is_measured_runs(spec: MapSpec) -> None:
    program = map_program(spec)
    executor()(program, {}).run(NoMailbox())
    assert program.work(program.steps[0]) == spec


def test_what_was_not_measured_follows_the_others_of_its_elements() -> None:
    device = Device("pi", {"default": 8e-10, "first": 4e-10, "int8_default": 2e-10, "int8_direct": 1e-10})
    assert device.gamma("int8_direct") == 1e-10
    assert device.gamma("int8_direct1x1") == pytest.approx(2e-10)
    assert device.gamma("int8_first") == pytest.approx(1e-10)
    assert device.gamma("first") == 4e-10
    unknown = Device("pi", {"default": 8e-10, "first": 4e-10})
    assert (unknown.gamma("int8_first"), unknown.gamma("int8_direct")) == (4e-10, 8e-10)


def test_every_board_has_a_rate_in_8_bits_and_its_source() -> None:
    for board in presets().values():
        assert board.gamma_s_per_mac["int8_default"] < board.gamma_s_per_mac["default"]
        assert "in 8 bits" in board.sources["gamma_s_per_mac"]


def test_ranks_without_an_instruction_are_named_with_what_it_costs() -> None:
    graph = for_shapes(zoo_graphs.graph("squeezenet1_1"), "bf16")
    slow, fast = ({"default": 1e-9, "bf16_default": bf16} for bf16 in (3e-9, 2e-9))
    devices = tuple(Device(f"r{rank}", rates) for rank, rates in enumerate((slow, slow, fast, fast, fast)))
    topology = Topology(devices, default_link=HERE)
    every: dict[int, tuple[Element, ...]] = dict.fromkeys(range(5), ("uint8", "bf16"))
    assert without_instruction(graph, topology, every) == ""
    assert without_instruction(zoo_graphs.graph("squeezenet1_1"), topology, dict.fromkeys(range(5), ())) == ""
    assert without_instruction(graph, topology, every | {1: ("uint8",)}) == (
        "worker 1 has no instruction for bf16: convolutions take 3.00 times as long there as in fp32"
    )
    assert without_instruction(graph, topology, every | {0: (), 1: (), 2: ()}) == (
        "the master, worker 1 and worker 2 have no instruction for bf16: convolutions take 2.00 to 3.00 times as long there "
        "as in fp32"
    )
    assert without_instruction(graph, topology, dict.fromkeys(range(5), ())).startswith("5 of the ranks have no instruction")


def test_what_a_profile_knows_of_instructions_is_kept_and_said() -> None:
    graph = for_shapes(zoo_graphs.graph("squeezenet1_1"), "bf16")
    rates = {"default": 1e-9, "bf16_default": 3e-9}
    unknown, without = Device("r0", rates), Device("r1", rates, multiplies=("uint8",), vectors=Vectors(4, True))
    topology = Topology((unknown, without, Device("r2", rates, multiplies=("uint8", "bf16"))), default_link=Link(1e-4, 8e-9))
    again = msgspec.json.decode(msgspec.json.encode(Profile.of(topology)), type=Profile).topology()
    assert [device.multiplies for device in again.devices] == [None, ("uint8",), ("uint8", "bf16")]
    assert [device.vectors for device in again.devices] == [None, Vectors(4, True), None]
    assert without_instruction(graph, again) == (
        "worker 1 has no instruction for bf16: convolutions take 3.00 times as long there as in fp32"
    )
    assert not without_instruction(for_shapes(zoo_graphs.graph("squeezenet1_1"), "int8"), again)
