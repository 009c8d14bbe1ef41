"""Result: one run's job and its results."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fogconv.analysis.layer_report import LayerReport
    from fogconv.analysis.outlook import Outlook
    from fogconv.analysis.workload import RankWork, Workload
    from fogconv.calibration.rate_source import RateSource
    from fogconv.quantization.precision import PrecisionReport
    from fogconv.tasks.draw import Finding
    from fogconv.zoo.card import Task

from fogconv.planning.plan_options import PlanOptions
from fogconv.runtime.run_options import RunOptions


@dataclass(frozen=True, kw_only=True)
class Job:
    """The settings from the command line: those of the plan and of the run, and those of this command only."""

    model: str
    images: tuple[str, ...] = ("coffee",)
    cluster: str = ""
    workers: int = -1
    plan_options: PlanOptions = PlanOptions()
    run_options: RunOptions = RunOptions()
    profile: Path | None = None
    weights: str = "pretrained"
    task: Task | None = None
    read: bool = False
    size: int | tuple[int, int] | None = None
    batch: int | None = None
    inputs: tuple[tuple[str, Path], ...] = ()
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    labels: Path | None = None
    repeat: int = 5
    stream: int = 0
    in_flight: int | None = None
    compare: bool = False
    trust: bool = False
    precision: str = "fp32"
    calibrate: tuple[str, ...] = ()


MEANINGLESS = "class scores of random weights, meaningless"
"""What a net with random weights sees."""


@dataclass(frozen=True, slots=True)
class OutputFigures:
    """One of the model's outputs: its shape, and the smallest and largest of its values (NaN for an output without any).

    ``max_abs_error``: the largest difference of any run from the baseline's, whose largest value is ``max_abs_reference``;
    infinite where the shapes differ. None without a baseline.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    least: float
    most: float
    max_abs_error: float | None = None
    max_abs_reference: float | None = None

    @property
    def rel_error(self) -> float:
        """In parts of the baseline's largest value."""
        error = self.max_abs_error or 0.0
        return error / self.max_abs_reference if self.max_abs_reference else error


@dataclass(frozen=True, slots=True)
class SharedMachine:
    """A computer that several ranks run on. ``by_all``: all of the cluster's."""

    host: str
    ranks: tuple[int, ...]
    cores: float
    by_all: bool


@dataclass(frozen=True)
class Result:
    """A job's results. ``found``: what the network found in each picture. Latencies are medians of warm runs, in
    seconds, without set-up.

    ``top5`` is empty for a model that gives no scores of classes. ``baseline``: the framework that ran the model on the
    master alone; the error is that of the output that is furthest from the baseline's, in parts of its largest value.
    ``precision``: of each layer, where some are in 8 bits. ``runs_s``: each warm run's. ``wire``: the coding of the
    activations. ``machines``: those that several ranks share. ``zero_channels``: how many of the model were left out.
    ``slower``: a sentence about ranks without an instruction for the precision.
    """

    job: Job
    model: str
    weights: str
    cluster: str
    workers: int
    scheme: str
    task: Task
    found: tuple[Finding, ...]
    latency_s: float
    predicted_s: float | None
    baseline: str | None
    baseline_latency_s: float | None
    max_abs_error: float | None
    max_abs_reference: float | None
    layers: tuple[LayerReport, ...]
    events: tuple[str, ...]
    frames_per_s: float | None = None
    runs_s: tuple[float, ...] = ()
    wire: str = "fp32"
    work: Workload | None = None
    ranks: tuple[RankWork, ...] = ()
    machines: tuple[SharedMachine, ...] = ()
    outlook: Outlook | None = None
    rates: tuple[RateSource, ...] = ()
    outputs: tuple[OutputFigures, ...] = ()
    precision: PrecisionReport | None = None
    zero_channels: int = 0
    slower: str = ""

    @property
    def weights_are_random(self) -> bool:
        from fogconv.zoo.card import says_random

        return says_random(self.weights)

    def as_json(self) -> dict[str, Any]:
        """``predicted_s`` and ``latency_s`` are the sums of ``total_s`` over ``layers``, and of ``other_layers``."""
        from fogconv.analysis.layer_report import other_layers
        from fogconv.tasks.classify import Classes

        guesses = [[vars(guess) for guess in each.guesses] for each in self.found if isinstance(each, Classes)]
        return {
            "model": self.model,
            "weights": self.weights,
            "input": list(self.job.images),
            "cluster": self.cluster,
            "workers": self.workers,
            "scheme": self.scheme,
            "top5_note": MEANINGLESS if self.weights_are_random else None,
            "top5": guesses[0] if guesses else [],
            "top5_all": guesses,
            "task": self.task,
            "results": [each.as_json() for each in self.found],
            "outputs": [asdict(output) for output in self.outputs],
            "latency_s": self.latency_s,
            "predicted_s": self.predicted_s,
            "baseline": self.baseline,
            "baseline_latency_s": self.baseline_latency_s,
            "max_abs_error": self.max_abs_error,
            "max_abs_reference": self.max_abs_reference,
            "frames_per_s": self.frames_per_s,
            "events": list(self.events),
            "shared_machines": [
                {"host": shared.host, "ranks": list(shared.ranks), "cores": shared.cores} for shared in self.machines
            ],
            "ranks": [asdict(rank) for rank in self.ranks],
            "rates": [source.as_json() for source in self.rates],
            "precision": None if self.precision is None else asdict(self.precision),
            "precision_note": self.slower or None,
            "zero_channels": self.zero_channels,
            "layers": [layer.as_json() for layer in self.layers],
            "other_layers": vars(other_layers(self.layers, self.predicted_s, self.latency_s)),
        }
