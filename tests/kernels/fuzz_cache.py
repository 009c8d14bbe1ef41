"""Fuzzer: what lies in the cache is what was put there, or it is made anew; nothing of others is unpickled.

    python -m tests.kernels.fuzz_cache CORPUS -max_total_time=60

The first byte of an input says which file it is (a compiled function, tuned choices, a pair of hosts) and how it lies
there: as it should, sealed by whoever made it, or where others could have written it. A sealed file that is this user's own
is unpickled, so of these only the beginning of an honest one is tried: what is changed in code that runs is past helping.
"""

from __future__ import annotations

import hashlib
import logging
import os
import pickle
import random
import shutil
import sys
import time
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import numba

from fogconv.calibration import cache as pairs
from fogconv.calibration.cache import CACHE_VERSION, NOWHERE, CachedPair, master_key, profile_of, remember, remembered_device
from fogconv.hardware.profile import ProfileDevice
from fogconv.ir.geometry import ConvSpec
from fogconv.kernels.codegen import jit as compiled
from fogconv.kernels.codegen.isa import host_isa
from fogconv.kernels.conv import tuning_table
from fogconv.kernels.conv.select import candidates, choose
from fogconv.storage import trusted
from tests import fuzzing
from tests.fuzzing import Target, changed_json, scrambled, scratch
from tests.strangers import STRANGER

KINDS = ("compiled", "tuned", "pair")
WAYS = ("as it is", "sealed", "group", "all", "stranger", "link", "pipe", "folder", "strange folder", "open folder")
MARK = "fogconv_canary"
SPEC = ConvSpec(64, 64, 56, 56, (3, 3), padding=(1, 1, 1, 1))
SIGNATURE = (numba.types.int64,)
CANARY_WAYS = {"group", "all", "stranger", "link", "strange folder", "open folder"}


class Canary:
    def __reduce__(self) -> tuple[object, ...]:
        return exec, (f"import sys; sys.{MARK} = 1",)
