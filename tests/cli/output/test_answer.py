"""What the model sees, before anything else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from fogconv.cli.output.answer import answer_lines, bar
from fogconv.cli.output.result import Result
from fogconv.tasks.classify import Classes
from tests.cli.output.examples import RANDOM, result


def lines_of(found: Result, width: int) -> list[str]:
    guesses = [each.guesses for each in found.found if isinstance(each, Classes)]
    answers = tuple(zip(found.job.images, guesses, strict=True))
    return answer_lines(answers, width, random_weights=found.weights == RANDOM)


def test_the_answer_comes_with_percentages_and_bars() -> None:
    first, best, *_ = lines_of(result(), 80)
    assert first == "coffee"
    assert best.split()[:2] == ["94.0", "%"] and "█" in best and best.endswith("espresso")


def test_every_picture_has_five_lines() -> None:
    lines = lines_of(result(images=("coffee", "chelsea")), 80)
    assert len(lines) == 12 and lines[6] == "chelsea"


def test_random_weights_claim_nothing() -> None:
    shown = "\n".join(lines_of(result(weights=RANDOM, probability=0.9996), 80))
    assert "class scores of random weights, meaningless" in shown
    assert "%" not in shown and "█" not in shown and "0.99" not in shown


def test_json_says_so_too() -> None:
    random, trained = (result(weights=weights, probability=0.9996).as_json() for weights in (RANDOM, "pretrained: ImageNet"))
    assert random["top5_note"] == "class scores of random weights, meaningless"
    assert trained["top5_note"] is None


@given(
    st.integers(40, 200), st.text(st.characters(codec="ascii", categories=("L",)), min_size=1, max_size=120), st.booleans()
)
def test_no_line_is_wider_than_asked_for(width: int, label: str, random: bool) -> None:
    shown = result(weights=RANDOM if random else "pretrained", label=label, images=(label,))
    assert all(cell_len(line) <= width for line in lines_of(shown, width))


@pytest.mark.parametrize(("part", "full"), [(0.0, 0), (0.5, 5), (1.0, 10), (7.0, 10)])
def test_a_bar_is_as_long_as_its_part(part: float, full: int) -> None:
    assert bar(part, 10) == "█" * full + " " * (10 - full)
