"""A long run leaves nothing behind: the short form of ``python -m bench.endurance``."""

from __future__ import annotations

import pytest

from bench.endurance import endure

pytestmark = pytest.mark.alone


def test_hundreds_of_inferences_and_losses_leave_nothing_behind() -> None:
    found = endure(300, workers=3, every=30)
    assert found["right"] == found["inferences"] >= 300
    assert found["losses"] == found["returns"] >= 5
    first, last = found["at_10_percent"], found["at_the_end"]
    assert found["flat"], (first, last)
