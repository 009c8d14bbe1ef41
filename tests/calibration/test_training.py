"""Ranks measure training's costs on themselves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from fogconv.calibration.training import measure_training, with_training
from fogconv.cluster.connect import connect
from fogconv.hardware.profile import Profile, read_profile, write_profile
from fogconv.hardware.topology import Topology
from fogconv.hardware.training_costs import pass_s
from fogconv.ir.geometry import ConvSpec

SPECS = tuple(
    replace(spec, batch=batch)
    for spec in (
        ConvSpec(32, 32, 14, 14, (3, 3), padding=(1, 1, 1, 1)),
        ConvSpec(32, 48, 14, 14, (1, 1), stride=(2, 2)),  # the last row and column are read by none
    )
    for batch in (1, 4)
)


def test_every_rank_has_the_costs_of_all_three_passes(tmp_path: Path) -> None:
    with connect("inproc://1", threads=1) as session:
        costs = measure_training(session, SPECS, repeats=2)
        assert set(costs) == {0, 1}
        for found in costs.values():
            assert {"forward s/MAC winograd", "input s/MAC direct1x1", "weight s/MAC direct1x1"} <= set(found)
            assert sum(found.values()) > 0
        profile = with_training(session, Profile.of(Topology.uniform(2, 1e10, 1e8)), SPECS)
    write_profile(profile, tmp_path / "profile.json")
    device = read_profile(tmp_path / "profile.json").topology().devices[1]
    assert device.training == profile.devices[1].training
    assert 0 < pass_s(device, "forward", SPECS[0]) < 1.0
