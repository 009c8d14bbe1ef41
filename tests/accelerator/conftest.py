"""The devices that torch has here: the processor, and a graphics card where there is one."""

from __future__ import annotations

import pytest
import torch

from fogconv.accelerator.executable import TorchExecutor, on_device

DEVICES = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)


@pytest.fixture(scope="session", params=DEVICES)
def made(request: pytest.FixtureRequest) -> TorchExecutor:
    return on_device(request.param)
