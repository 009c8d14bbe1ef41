"""`fogconv calibrate --predictor all` on a device whose small steps are mostly overhead and noise."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from fogconv.calibration import devices
from fogconv.calibration.devices import Answer
from fogconv.cli.commands import calibrate as command
from fogconv.hardware.profile import Profile, ProfileDevice
from fogconv.ir.geometry import ConvSpec

S_PER_MAC = 1.86e-11
LARGE = ConvSpec(512, 512, 14, 14, (3, 3), padding=(1, 1, 1, 1))
"""8.6 ms on this device; `--predictor all` said 0.62."""


class Alone:
    """A session without workers."""

    ranks = 1
    workers: tuple[object, ...] = ()


@pytest.mark.parametrize(("noise", "overhead_s"), [(0.3, 2e-4), (1.0, 6e-4)])
def test_the_chosen_predictor_knows_the_sizes_of_nets(
    noise: float, overhead_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    def timed(specs: Sequence[object], repeats: int) -> Answer:
        chance = np.random.default_rng(1)
        own = (getattr(spec, "macs", 0) * S_PER_MAC for spec in specs)
        seconds = [each + overhead_s * float(np.exp(noise * chance.standard_normal())) for each in own]
        return Answer(seconds, 2e9, seconds)

    monkeypatch.setattr(devices, "measured_here", timed)
    profile = Profile(1, (ProfileDevice("master", {"default": S_PER_MAC}),), ())
    found, _ = command._predicted(Alone(), profile, "all")  # type: ignore[arg-type]
    predicted = found.topology().devices[0].conv_s(LARGE)
    assert predicted == pytest.approx(LARGE.macs * S_PER_MAC + overhead_s, rel=0.25), found.predictor
    assert found.predictor != "mean"
