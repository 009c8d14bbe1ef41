"""Timeouts: the default waits of masters and workers."""

from __future__ import annotations

MESSAGE_S = 60.0
"""The wait for one message of a run, in seconds."""

HEARTBEAT_S = 1.0
"""A peer that sends nothing for so long is lost."""
