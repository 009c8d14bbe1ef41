"""RunOptions: one check each."""

from __future__ import annotations

from typing import Any

import pytest

from fogconv.errors import InputError
from fogconv.runtime.run_options import RunOptions


@pytest.mark.parametrize("options", [{"threads": -1}, {"timeout_s": 0.0}, {"heartbeat_s": float("nan")}])
def test_what_is_not_possible_is_named(options: dict[str, Any]) -> None:
    [name] = options
    with pytest.raises(InputError, match=name.removesuffix("_s")):
        RunOptions(**options)
