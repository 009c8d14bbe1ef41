"""Timeouts: how long masters and workers wait where nothing else is said."""

from __future__ import annotations

MESSAGE_S = 60.0
"""For one message of a run."""

HEARTBEAT_S = 1.0
"""A peer that says nothing for so long is lost."""
