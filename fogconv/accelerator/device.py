"""The device that torch computes on, by the name that torch gives it: cpu, cuda, cuda:1, mps."""

from __future__ import annotations

import hashlib

import torch

from fogconv.errors import InputError, shown


def device_of(name: str) -> torch.device:
    """The device of this name, which works; "" is the processor. Raises InputError for one that is not there."""
    try:
        device = torch.device(name or "cpu")
        torch.zeros(1, device=device).sum().item()
    except Exception as error:  # torch raises a type of its own for each kind of device
        reason = str(error).strip().partition("\n")[0]
        raise InputError(
            f"--executor torch:{name}: torch can't use the device {shown(name)} here ({reason}); write --executor torch for "
            "the processor"
        ) from None
    return device


def fingerprint(device: torch.device) -> str:
    """What its kernels' rates depend on, as hex digits: torch, and the hardware where it is no processor."""
    hardware = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return hashlib.blake2b(f"torch {torch.__version__} {hardware}".encode(), digest_size=16).hexdigest()


def settle(device: torch.device, threads: int) -> None:
    """Let torch compute on this device as workers do, for the whole process: in float32 throughout, by so many threads."""
    if device.type == "cuda":
        # The 10 bits of TF32, torch's default for convolutions, are an error of 1e-3.
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_tf32 = False
    elif torch.get_num_threads() != threads:
        torch.set_num_threads(threads)


def wait_for(device: torch.device) -> None:
    """Wait until the device has done all that it was asked."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
