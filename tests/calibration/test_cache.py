"""Where rates are kept: in the folder of all of this user's caches."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from fogconv.calibration.cache import CACHE_VERSION, KnownRates, default_folder, recall, remember, remembered_rates
from fogconv.hardware.profile import ProfileDevice

KNOWN = KnownRates(CACHE_VERSION, time.time(), ProfileDevice("pi", {"default": 1e-9}), 0.0, 0.0, False, 1)


def test_rates_are_kept_where_the_user_wants_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOGCONV_CACHE_DIR", str(tmp_path / "mine"))
    folder = default_folder()
    assert folder == tmp_path / "mine" / "calibration"
    remember(folder, "device a", KNOWN)
    assert recall(folder, "device a", KnownRates) == KNOWN


def test_with_the_cache_off_nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOGCONV_CACHE_DIR", "off")
    assert default_folder() is None
    remember(None, "device a", KNOWN)
    assert recall(None, "device a", KnownRates) is None
    assert list(remembered_rates(None)) == []
