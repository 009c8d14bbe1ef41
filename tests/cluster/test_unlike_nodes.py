"""Unlike nodes: an x86 master and an aarch64 worker share a conv over ZeroMQ.

`make test-arm` runs this; elsewhere FOGCONV_ARM64_PYTHON may name an aarch64 Python that tools/setup_arm64.sh made. Its
emulated worker takes ten seconds to start.
"""

from __future__ import annotations

import os
import platform
from pathlib import Path

import numpy as np
import pytest

from fogconv.cluster.connect import connect
from fogconv.hardware.topology import Topology
from fogconv.ir.geometry import ConvSpec
from fogconv.ir.graph import LayerGraph
from fogconv.ir.layers import Conv, Tensor
from fogconv.kernels.reference import conv2d as reference
from fogconv.lowering.lower import lower
from fogconv.planning.plan_options import PlanOptions
from fogconv.planning.planner import plan
from tests.cluster.launch import ROOT, free_port, process, wait_until_listening

pytestmark = pytest.mark.alone

START_S = 120.0


@pytest.fixture(scope="module")
def arm_python() -> Path:
    path = Path(os.environ.get("FOGCONV_ARM64_PYTHON", ROOT / ".arm64/bin/python-arm64"))
    if not path.exists():
        pytest.skip("no aarch64 Python here: tools/setup_arm64.sh, or `make test-arm`")
    return path


def graph_of(spec: ConvSpec) -> LayerGraph:
    """One conv with bias and ReLU, and seeded weights."""
    source = Tensor("x", spec.batch, spec.in_channels, spec.height, spec.width)
    target = Tensor("y", spec.batch, spec.out_channels, spec.out_height, spec.out_width)
    random = np.random.default_rng(7)
    weights = {
        "w": random.standard_normal(spec.weight_shape, np.float32),
        "b": random.standard_normal(spec.out_channels, np.float32),
    }
    conv = Conv("conv", 0, 1, spec, "w", "b", "relu")
    return LayerGraph.single("one conv", (source, target), (conv,), 0, 1, target.shape, weights)


@pytest.mark.timeout(400)
def test_an_x86_master_and_an_aarch64_worker_share_a_conv(arm_python: Path) -> None:
    spec = ConvSpec(24, 40, 14, 14, (3, 3), padding=(1, 1, 1, 1))
    graph = graph_of(spec)
    x = np.random.default_rng(8).standard_normal(spec.input_shape, np.float32)
    right = np.maximum(reference(x, graph.weights["w"], graph.weights["b"], spec), 0)
    topology = Topology.uniform(2, 1e9, 1e9)
    port = free_port()
    address = f"tcp://127.0.0.1:{port}"
    command = (str(arm_python), "-m", "fogconv.cli.commands.worker", "--bind", address, "--threads", "1")
    # One heart beats under emulation, too, but a compiling qemu may hold it for a second.
    with process(*command) as worker:
        wait_until_listening(port, START_S)
        with connect(address, timeout_s=300.0, connect_timeout_s=60.0, heartbeat_s=20.0) as session:
            assert worker.poll() is None
            [info] = session.workers
            assert info.isa != platform.machine()
            for scheme in ("star", "depth", "rows"):
                found = plan(graph, topology, PlanOptions(scheme, threshold=0.0))
                lowered = lower(graph, found)
                assert any("Conv" in type(step).__name__ for step in lowered.programs[1].steps), scheme
                loaded = session.load(lowered.programs, lowered.weights)
                [output] = session.run(loaded, [x]).outputs
                assert np.abs(output - right).max() <= 1e-5 * np.abs(right).max(), scheme
                session.unload(loaded)
