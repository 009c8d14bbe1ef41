"""Results to render, from plain ones to the widest that there are."""

from __future__ import annotations

from fogconv.analysis.layer_report import LayerReport
from fogconv.analysis.outlook import Outlook
from fogconv.analysis.workload import RankWork, Workload
from fogconv.cli.output.result import Job, Result, SharedMachine
from fogconv.planning.plan_options import PlanOptions
from fogconv.simulation.layer_times import STAR_TERMS, TERMS
from fogconv.tasks.classify import Classes, Guess

LONG_NAME = "features.denseblock4.denselayer16.conv2"
RANDOM = (
    "random (seed 0): torchvision's ResNet18_Weights.IMAGENET1K_V1 are not available: download.pytorch.org is away (why)"
)


def layer(scheme: str, name: str = LONG_NAME) -> LayerReport:
    """A layer whose figures are all as wide as they get."""
    times: dict[str, float | None] = dict.fromkeys(STAR_TERMS if scheme == "star" else TERMS, 1.234567)
    return LayerReport(
        name, "conv", 2048, 2048, (11, 11), 224, 224, 1234.5, 12345.6, 9.9, True, "output:16", "", times, dict(times),
        123_456_789, 987_654_321,
    )  # fmt: skip


def result(
    *,
    scheme: str = "star",
    weights: str = "pretrained: ImageNet",
    images: tuple[str, ...] = ("coffee",),
    label: str = "espresso",
    probability: float = 0.94,
    events: tuple[str, ...] = (),
    workers: int = 4,
    cluster: str = "mpi",
    full: bool = True,
) -> Result:
    """``full``: with all that a run may be asked for."""
    guesses = (Guess(label, 967, probability), *(Guess(f"{label} {number}", number, 0.01) for number in range(4)))
    return Result(
        Job(model="densenet121", plan_options=PlanOptions(threshold=0.0), images=images, stream=9),
        "densenet121",
        weights,
        cluster,
        workers,
        scheme,
        "classify",
        (Classes(guesses),) * len(images),
        0.0399,
        0.0493,
        "torch" if full else None,
        0.0201 if full else None,
        1.05e-5 if full else None,
        11.1 if full else None,
        (layer(scheme),),
        events,
        31.2 if full else None,
        runs_s=(0.0381, 0.0399, 0.0451),
        wire="zstd",
        ranks=tuple(RankWork(rank, 49, 0.5 if rank == 0 else 0.125, 0.0123, 0.0456, 3.2e6) for rank in range(workers + 1)),
        work=Workload({0: 500, **dict.fromkeys(range(1, workers + 1), 125)}, 18_900_000.0),
        machines=(SharedMachine("vm", tuple(range(workers + 1)), 2.0, True),) if full else (),
        outlook=Outlook(1 + workers, 1e9, 0.0107, 0.0214) if full else None,
    )
