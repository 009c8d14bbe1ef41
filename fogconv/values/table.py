"""The table of numbers: the range of each, for the command line and for Python.

Upper bounds are generous: they exclude typing errors and overflows, not large clusters.
"""

from __future__ import annotations

from fogconv.values.number import Number

# Counts

MOST_SIMULATED_WORKERS = 1024
MOST_INPROC_WORKERS = 256

THREADS = Number("threads", 0, 1024, whole=True, note="0: all cores")
INPROC_WORKERS = Number("workers", -1, MOST_INPROC_WORKERS, whole=True, note="-1: one per spare core")
SIMULATED_WORKERS = Number("workers", 1, MOST_SIMULATED_WORKERS, whole=True)
RANKS = Number("ranks, master included,", 2, MOST_SIMULATED_WORKERS + 1, whole=True)
PARTS = Number("parts", 2, MOST_SIMULATED_WORKERS + 1, whole=True)
RANK = Number("", 0, MOST_SIMULATED_WORKERS, whole=True)
BATCH = Number("images", 1, 4096, whole=True)
MODELS = Number("models", 1, 1000, whole=True)
REPEATS = Number("runs", 1, 1_000_000, whole=True)
FRAMES = Number("frames", 0, 1_000_000, whole=True)
INFERENCES = Number("inferences", 1, 1_000_000, whole=True)
IN_FLIGHT = Number("inferences", 1, 1024, whole=True)
ACCESS_POINTS = Number("access points", 0, MOST_SIMULATED_WORKERS, whole=True, note="0: cables")
REDUNDANCY = Number("parity workers", 0, 1, whole=True)
CHANNELS = Number("channels", 1, 2**20, whole=True)
DEPTH = Number("channels", 0, 2**20, whole=True)
GROUPS = Number("groups", 1, 2**20, whole=True)
MESSAGE_ELEMENTS = Number("elements", 1, 10**12, whole=True)
MOST_RATES = 16
"""Bandwidths in one option."""
PORT = Number("", 1, 65535, whole=True)
TOLERANCE = Number("", 0, 1)
"""Of noise ÷ signal."""
SEED = Number("", -(10**15), 10**15, whole=True)

# Sizes in pixels

SIDE = Number("pixels", 1, 6000, whole=True)
"""Of what a model takes."""
MOST_PIXELS = 64_000_000
"""Of one picture."""
MOST_BATCH_PIXELS = 256_000_000
"""Of all images of a batch together: 3 GB."""
MAP_SIDE = Number("pixels", 1, 65536, whole=True)
KERNEL_SIDE = Number("pixels", 1, 1024, whole=True)
PADDING = Number("pixels", 0, 65536, whole=True)

# Times in seconds

MESSAGE_TIME = Number("seconds", 0.001, 1_000_000)
CONNECT_TIME = Number("seconds", 0.001, 1_000_000)
HEARTBEAT = Number("seconds", 0.01, 3600)
"""With shorter ones every busy system would count as lost."""
INTERVAL = Number("seconds", 0.1, 86_400)
LATENCY = Number("seconds", 0, 10_000)
DEADLINE = Number("seconds", 1e-6, 10_000)

# Rates and costs; one MAC is two FLOP, one element 4 bytes

FLOP_RATE = Number("FLOP/s", 1e-3, 1e18)
BANDWIDTH = Number("bytes/s", 1e-3, 1e15)
GAMMA = Number("seconds per MAC", 2e-18, 2e3)
BETA = Number("seconds per element", 4e-15, 4e3)
COPY = Number("seconds per element", 0, 4e3)
JOULES = Number("joules", 0, 1e6)
ENERGY = Number("joules", 1e-9, 1e6)
"""Of one inference."""

# Bytes

LEAST_MEMORY_BYTES = 320_000_000
"""What a worker takes beside its programs (`fogconv.ir.memory.footprint.PROCESS_BYTES`), and as much as a small program
takes."""

MEMORY = Number("bytes", LEAST_MEMORY_BYTES, 10**15)
"""A worker's limit."""

# Ratios

THRESHOLD = Number("", 0, 1_000_000, endless=True, note="0: every conv is distributed, inf: none")
PATIENCE = Number("", 0, 1_000_000, note="0: no limit")
JITTER = Number("", 0, 3)
SPEED = Number("", 1e-6, 1e6)
MEAN = Number("", -1e6, 1e6)
DEVIATION = Number("", 1e-6, 1e6)
