"""The ranking: who meets the limits first, by accuracy; then the others, the nearest first."""

from __future__ import annotations

from fogconv.choice.candidate import Limits
from fogconv.choice.ranking import by_accuracy, ranked
from fogconv.hardware.presets import preset
from fogconv.zoo.accuracy import accuracies

PI4 = preset("pi4").topology(2)
NAMES = ("alexnet", "squeezenet1_1", "mobilenet_v3_small", "vgg16", "shufflenet_v2_x0_5", "resnet18")


def test_models_that_meet_the_limits_come_by_accuracy_and_the_others_by_distance() -> None:
    found = ranked(NAMES, PI4, Limits(seconds=0.03))
    tops = [each.top1 or 0.0 for each in found.meeting]
    assert tops == sorted(tops, reverse=True) and all(each.seconds <= 0.03 for each in found.meeting)
    factors = [max(factor for _, factor in each.missed) for each in found.others]
    assert factors == sorted(factors) and all(factor > 1 for factor in factors)
    assert {each.model for each in (*found.meeting, *found.others)} == set(NAMES)
    assert {"mobilenet_v3_small", "squeezenet1_1"} <= {each.model for each in found.meeting}
    assert "vgg16" in {each.model for each in found.others}


def test_less_accurate_models_are_left_out_once_enough_meet_the_limits() -> None:
    seen: list[tuple[str, int, int]] = []
    found = ranked(NAMES, PI4, Limits(seconds=0.03), most=1, progress=lambda *each: seen.append(each))
    whole = ranked(NAMES, PI4, Limits(seconds=0.03))
    assert [each.model for each in found.meeting] == [whole.meeting[0].model]
    assert len(found.untried) + len(found.others) + 1 == len(NAMES)
    best = accuracies()[found.meeting[0].model].top1
    assert all(accuracies()[name].top1 <= best for name in found.untried)
    assert [name for name, _, _ in seen] == by_accuracy(NAMES)[: len(seen)]
    assert [done for _, done, _ in seen] == list(range(len(seen)))
