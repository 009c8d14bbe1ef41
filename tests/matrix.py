"""The matrix: which model runs on how many workers, over which transport, under which scheme; and what right is.

The quick suite takes a pairwise subset of it (every two values of two axes meet in some cell) on reduced images; the full
one takes every cell on images of the published size.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray

from fogconv.cluster.session.session import Session
from fogconv.hardware.topology import Topology
from fogconv.ir.graph import LayerGraph
from fogconv.planning.plan_options import PlanOptions
from fogconv.planning.schemes import STREAMS
from fogconv.runtime.engine import Engine
from fogconv.runtime.run_options import RunOptions
from fogconv.zoo.random_weights import noise_images
from tests import seeded_models as models

TOLERANCE = 1e-4
"""Of the largest reference value."""

STEADY = RunOptions(adapt=False)
"""A busy machine must not cause a new plan in a test of something else."""

TRANSPORTS = ("inproc", "zmq", "mpi")
STAR_WORKERS = (1, 2, 3, 4, 7)
RESIDENT_RANKS = (3, 5)
RESIDENT_SCHEMES = ("auto", "depth", "rows", "columns", "tiles", "offload", *STREAMS)
RESIDENT_MODELS = (
    "alexnet",
    "convnext_tiny",
    "densenet121",
    "efficientnet_b0",
    "googlenet",
    "inception_v3",
    "mnasnet0_5",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "regnet_y_400mf",
    "resnet18",
    "resnext50_32x4d",
    "shufflenet_v2_x0_5",
    "squeezenet1_0",
    "swin_t",
    "vgg11_bn",
    "vit_b_32",
)


EXECUTOR_MODELS = ("mobilenet_v3_small", "densenet121", "shufflenet_v2_x0_5", "googlenet")
"""What the workers' other executors are shown, each in another scheme."""


@dataclass(frozen=True)
class Cell:
    """``size`` is the image's side in pixels. ``master_computes`` is for the star."""

    model: str
    size: int
    workers: int
    transport: str
    scheme: str
    master_computes: bool = True

    def __str__(self) -> str:
        alone = "" if self.master_computes else "-master_idle"
        return f"{self.model}@{self.size}-{self.scheme}-{self.workers}workers-{self.transport}{alone}"

    @property
    def options(self) -> PlanOptions:
        return PlanOptions(self.scheme, threshold=0.0, master_computes=self.master_computes)

    @property
    def topology(self) -> Topology:
        """A network so fast that layers are distributed, which on one machine they would not be; whole layers are only
        where a rank is faster than the master."""
        found = Topology.uniform(self.workers + 1, 10e9, 1e11, 1e-7, copy_s_per_byte=1e-12, step_s=1e-8)
        for rank in found.workers if self.scheme == "offload" else ():
            found = found.replace_device(rank, found.devices[rank].scaled(1.0 + rank))
        return found


def star_cells(*, full: bool) -> list[Cell]:
    cells = []
    for i, model in enumerate(models.ENGINE_MODELS):
        for j, workers in enumerate(STAR_WORKERS):
            for k, transport in enumerate(TRANSPORTS):
                if full:
                    cells.append(Cell(model, models.published(model), workers, transport, "star", (i + j + k) % 2 == 0))
                elif (i + j) % len(TRANSPORTS) == k:
                    cells.append(Cell(model, models.small(model), workers, transport, "star", i % 2 == 0))
    return cells


def resident_cells(*, full: bool) -> list[Cell]:
    cells = []
    for i, model in enumerate(RESIDENT_MODELS):
        for j, scheme in enumerate(RESIDENT_SCHEMES):
            for k, ranks in enumerate(RESIDENT_RANKS):
                if full:
                    cells.append(Cell(model, models.published(model), ranks - 1, "inproc", scheme))
                elif (i + j) % len(RESIDENT_RANKS) == k:
                    cells.append(Cell(model, models.small(model), ranks - 1, "inproc", scheme))
    return cells


def between_processes() -> list[Cell]:
    """Halos of columns and at corners, and frames in flight, between processes of their own."""
    model = "shufflenet_v2_x0_5"
    schemes, transports = ("columns", "tiles", *STREAMS), ("zmq", "mpi")
    return [Cell(model, models.small(model), 4, transport, scheme) for scheme in schemes for transport in transports]


def executor_cells(*, full: bool) -> list[Cell]:
    schemes = ("star", *(scheme for scheme in RESIDENT_SCHEMES if scheme != "auto"))
    return [
        Cell(model, models.small(model), 2, "inproc", scheme)
        for i, model in enumerate(RESIDENT_MODELS if full else EXECUTOR_MODELS)
        for j, scheme in enumerate(schemes)
        if full or i % len(schemes) == j
    ]


@dataclass(frozen=True)
class Reference:
    """torch's answer in float32 and in float64."""

    single: NDArray[np.float32]
    double: NDArray[np.float64]

    @property
    def scale(self) -> float:
        return float(np.abs(self.double).max())

    @property
    def own_error(self) -> float:
        """torch's fp32 error, of the largest value."""
        return float(np.abs(self.single - self.double).max()) / self.scale

    def errors(self, output: NDArray[np.float32]) -> tuple[float, float]:
        """(against float32, against float64), of the largest value."""
        single = float(np.abs(output - self.single).max()) / float(np.abs(self.single).max())
        return single, float(np.abs(output - self.double).max()) / self.scale


UNSETTLED = ("efficientnet_b0",)
"""Where the photograph makes the activations of the seeded network grow by thousands, so that torch's own float32 is 1e-3 of
the largest value off; it gets one of the images that its batch norms were settled with. (For all, these would not do:
with them resnet50's own error is ten times what it is with the photograph.)"""


def image(model: str, size: int) -> NDArray[np.float32]:
    """(1, 3, H, W): what this model is shown."""
    if model in UNSETTLED:
        return np.ascontiguousarray(noise_images(4, (size, size))[:1].numpy())
    return models.photograph(model, size)


@cache
def reference(model: str, size: int) -> Reference:
    x = torch.from_numpy(image(model, size))
    with torch.inference_mode():
        single = models.model(model, size).module(x).numpy()
        double = models.model64(model, size)(x.double()).numpy()
    return Reference(single, double)


def run_cell(cell: Cell, graph: LayerGraph, x: NDArray[np.float32], session: Session) -> tuple[Engine, NDArray[np.float32]]:
    """The engine as it ran (its plan is of interest), and the outputs, one below the other: of one inference, or of a stream
    in which every rank has a frame."""
    engine = Engine(graph, session, cell.topology, cell.options, STEADY)
    try:
        if cell.scheme in STREAMS:
            return engine, np.concatenate(list(engine.stream([x] * (cell.workers + 1))))
        return engine, engine.run(x).output
    finally:
        engine.close()


def check(cell: Cell, outputs: NDArray[np.float32]) -> None:
    """Equal to torch's within TOLERANCE; against float64 within the larger of that and ten times torch's own error."""
    right = reference(cell.model, cell.size)
    assert len(outputs) == (cell.workers + 1 if cell.scheme in STREAMS else 1)
    for output in outputs[:, None]:
        assert output.shape == right.single.shape
        assert np.isfinite(output).all()
        single, double = right.errors(output)
        allowed = max(TOLERANCE, 10 * right.own_error)
        assert double <= allowed, f"{cell}: {double:.2e} of the largest value off float64's; {allowed:.2e} allowed"
        assert single <= TOLERANCE, f"{cell}: {single:.2e} of the largest value off torch's; {TOLERANCE:.0e} allowed"
