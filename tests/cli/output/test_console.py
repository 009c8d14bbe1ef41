"""What a bar says while a model is loaded."""

from __future__ import annotations

import pytest

from fogconv.cli.output.console import doing, so_far
from fogconv.cluster.session.loaded_program import Progress


@pytest.mark.parametrize(
    ("progress", "what", "note"),
    [
        (Progress(1_000_000, 4_500_000, 0, 2), "sending weights", "1.0 MB, 0 of 2 workers ready"),
        (Progress(4_500_000, 4_500_000, 1, 2), "compiling kernels", "4.5 MB, 1 of 2 workers ready"),
        (Progress(0, 0, 0, 0), "compiling kernels", ""),
    ],
    ids=["weights are on their way", "all were sent", "the master alone"],
)
def test_a_bar_says_what_takes_the_time(progress: Progress, what: str, note: str) -> None:
    """It said "sending weights 0.0 MB, 0 of 0 workers ready" for all the time in which the master compiled."""
    assert (doing(progress), so_far(progress)) == (what, note)
