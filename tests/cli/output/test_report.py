"""What a run prints below its answer: a summary, and the table of layers only where it is asked for."""

from __future__ import annotations

import io

import pytest
from rich.cells import cell_len

from fogconv.cli.output.report import print_report
from fogconv.simulation.layer_times import STAR_TERMS, TERMS
from tests.cli.output.examples import LONG_NAME, result


def printed(width: int, *, scheme: str = "star", layers: bool = True) -> list[str]:
    out = io.StringIO()
    print_report(result(scheme=scheme), out=out, layers=layers, width=width)
    return out.getvalue().splitlines()


def test_a_report_is_a_summary_and_shows_no_layer_unasked() -> None:
    lines = printed(80, layers=False)
    assert lines[0] == "" and lines[1].startswith("model")
    assert len(lines) <= 1 + 12 + 5, "a dozen, and one for each rank"
    assert not any("pred" in line.split() for line in lines)


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("scheme", ["star", "rows"])
def test_every_figure_of_the_table_is_whole(width: int, scheme: str) -> None:
    """The widest that there are: a deep layer's name, a large map, long times."""
    terms = STAR_TERMS if scheme == "star" else TERMS
    lines = printed(width, scheme=scheme)
    assert all(cell_len(line) <= width for line in lines)
    row = next(number for number, line in enumerate(lines) if line.startswith("features"))
    name, *figures = lines[row].split()
    assert name[:8] == "features" and name[-11:] == LONG_NAME[-11:]
    assert figures[-len(terms) :] == ["1235"] * len(terms)
    assert lines[row + 1].split()[-len(terms) :] == ["1235"] * len(terms)
    shown = " ".join(lines)
    for part in ("output:16", "123M", *(("123M/988M", "1234", "12346") if scheme == "star" else ())):
        assert part in shown
    assert width == 80 or name == LONG_NAME
