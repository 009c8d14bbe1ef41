"""Limits: the most that a worker takes on in one program, one step, one measurement."""

from __future__ import annotations

MOST_PROGRAM_BYTES = 64 << 20
"""A program of a few thousand steps takes less than one of these megabytes."""
MOST_STEPS = 100_000
MOST_BUFFERS = 100_000
MOST_WEIGHTS = 40_000
"""The most keys of one Missing."""
MOST_PARTS = 4096
"""The most parts of one message, one sum or one Gather."""
MOST_DIMENSIONS = 8
MOST_CHANNELS = 1 << 20
MOST_SIDE = 1 << 16
"""The limit for rows or columns of a conv's output, its kernel, stride, dilation and padding: binding lists tiles along
them."""
MOST_PIXELS = 1 << 26
"""The most pixels of a conv's output, including the batch."""
MOST_LISTED = 1 << 22
"""The most items that binding lists for a conv: its groups, for each piece of about ``PIECE_BYTES`` of its input."""
PIECE_BYTES = 256 << 10
MOST_MACS = 1 << 42
"""In one step: minutes on a small device. A run can be aborted between steps."""
MOST_MEASURED_MACS = 1 << 45
"""The most multiply-adds in all runs of a measurement."""
MOST_MEASURED_CHANNELS, MOST_MEASURED_SOURCES = 1 << 14, 64
"""Of a step other than a conv in a measurement: checks go through them one by one."""
MOST_COORDINATE = 1 << 31
MOST_TAG = 1 << 62
MOST_FIGURE = 1e6
"""Of the mean and the standard deviation of pixels."""
MOST_PATIENCE_S = 86400.0
