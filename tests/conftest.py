"""What all tests share: property tests don't fail because the machine is busy.

With FIXED_EXAMPLES in the environment (continuous integration) they draw the same examples each time, as many as
otherwise: a verdict is then about the commit. The search for more goes on wherever `make test` is typed.
"""

from __future__ import annotations

import os
from contextlib import suppress

# The Python for aarch64 under emulation may lack hypothesis.
with suppress(ImportError):
    from hypothesis import HealthCheck, settings

    settings.register_profile(
        "unhurried",
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
        derandomize="FIXED_EXAMPLES" in os.environ,
    )
    settings.load_profile("unhurried")
