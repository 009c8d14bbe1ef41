"""What all tests share: property tests don't fail because the machine is busy."""

from __future__ import annotations

from contextlib import suppress

# The Python for aarch64 under emulation may lack hypothesis.
with suppress(ImportError):
    from hypothesis import HealthCheck, settings

    settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("unhurried")
