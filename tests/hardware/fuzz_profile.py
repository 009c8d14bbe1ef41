"""Fuzzer: a profile is a topology that can be planned with, or a sentence.

python -m tests.hardware.fuzz_profile CORPUS -max_total_time=60
"""

from __future__ import annotations

import math
import random
from functools import cache

import msgspec

from fogconv.hardware import profile, topology
from fogconv.hardware.latency import features, predictors, samples
from fogconv.hardware.latency.predictors import FITS
from fogconv.hardware.latency.samples import DeviceLoad
from fogconv.hardware.profile import Profile, ProfileMapSample, ProfileSample, read_profile
from fogconv.hardware.topology import KERNEL_CLASSES, Device, Link, Topology
from fogconv.ir.geometry import ConvSpec, MapSpec
from tests import fuzzers
from tests.fuzzers import Target, changed_json, in_a_sentence, scratch

POOL = MapSpec("pool", 32, 7, 7, kernel=(2, 2), stride=(2, 2))
CONV = ConvSpec(16, 32, 14, 14, (3, 3), padding=(1, 1, 1, 1))


def one_input(data: bytes) -> None:
    file = scratch() / "profile.json"
    file.write_bytes(data)
    with in_a_sentence():
        found = read_profile(file)
        again = msgspec.json.decode(msgspec.json.encode(found), type=Profile)
        assert msgspec.json.encode(again) == msgspec.json.encode(found)
        built = found.topology()
        for device in built.devices:
            assert 0 <= device.conv_s(CONV) < math.inf or _large(device), device
            assert 0 <= device.work_s(POOL) < math.inf or _large(device), device
        for i in built.ranks:
            for j in built.ranks:
                assert built.link(i, j).seconds(1000) >= 0
        built.subset(range(max(1, len(built) - 1)))


def _large(device: Device) -> bool:
    """Rates near the largest number: their products may be infinite."""
    return (
        max(*device.gamma_s_per_mac.values(), *device.map_s_per_byte.values(), device.weight_s_per_byte, device.step_s)
        > 1e290
    )


@cache
def seeds() -> dict[str, bytes]:
    gamma = {"default": 1e-9, **dict.fromkeys(KERNEL_CLASSES, 2e-9)}
    boards = tuple(Device(f"pi{n}", gamma, 1e-10, 1e-5, 10**9, 4, f"tcp://10.0.0.{n}:5555") for n in range(3))
    links = {(i, j): Link(1e-4, 8e-9, message_elements=1000) for i in range(3) for j in range(3) if i != j}
    whole = Profile.of(Topology(boards, links), {"gamma pi0 direct": 0.02}, "a note")
    samples = tuple(
        ProfileSample((8 * n, 8), (14, 14), (3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 1, 1e-4 * n) for n in range(1, 4)
    )
    others = (
        ProfileMapSample("pool", 8, (7, 7), 1, (2, 2), (2, 2), 1e-5, DeviceLoad(0.5, 2.0, 0.3, 61.0, 0.9, 0.0, 0.1, 40.0)),
        ProfileMapSample("add", 8, (7, 7), 2, (1, 1), (1, 1), 2e-5),
    )
    rates = {"pool": 2e-10, "default": 1e-10}
    sampled = msgspec.structs.replace(
        whole,
        devices=tuple(
            msgspec.structs.replace(device, samples=samples, map_samples=others, map_s_per_byte=rates)
            for device in whole.devices
        ),
    )
    fitted = {f"sampled_{name}": msgspec.json.encode(msgspec.structs.replace(sampled, predictor=name)) for name in FITS}
    return {
        **fitted,
        "whole": msgspec.json.encode(whole),
        "alone": b'{"fogconv_profile":1,"devices":[{"name":"pi","gamma_s_per_mac":{"default":1e-9}}],"links":[]}',
        "none": b"[]",
    }


def changed(data: bytes, generator: random.Random) -> bytes:
    return changed_json(data, generator)


TARGET = Target(one_input, seeds, changed, watched=(profile, topology, predictors, features, samples))

if __name__ == "__main__":
    fuzzers.main(TARGET)
