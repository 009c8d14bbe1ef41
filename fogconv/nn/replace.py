"""distribute: replace the convs of a model by DistributedConv2d where it pays."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from fnmatch import fnmatch

import torch
from torch import nn

from fogconv.cluster.session.session import Session
from fogconv.errors import InputError
from fogconv.nn.attached import SplitChoice
from fogconv.nn.conv import DEFAULTS, DistributedConv2d, OnLoss, replaceable


@dataclass(frozen=True)
class LayerReport:
    """The decision for one conv, and the reason. ``distributed`` is None where each call decides by the input's size."""

    name: str
    distributed: bool | None
    reason: str
    split: str | None = None
    bound: float | None = None
    estimate: float | None = None


def distribute(
    model: nn.Module,
    cluster: Session | None,
    *,
    threshold: float = DEFAULTS.threshold,
    exclude: Collection[str] = (),
    inplace: bool = False,
    split: SplitChoice = "auto",
    trigger: str = DEFAULTS.trigger,
    on_loss: OnLoss = "local",
    example: torch.Tensor | None = None,
) -> nn.Module:
    """The model with its convs replaced by DistributedConv2d where the trigger decides so; its attribute
    ``fogconv_report`` lists the decisions.

    ``exclude`` names modules (with ``*`` and ``?``). With an ``example`` input the model is run once, in inference mode, to
    learn each conv's size, and only convs that the trigger distributes are replaced; without one every conv is replaced
    and decides at each call. Convs with their own way of computing (such as a subclass with a forward) are not replaced.
    The model is copied unless ``inplace``. Raises InputError for names in ``exclude`` that match no module.
    """
    target = model if inplace else copy.deepcopy(model)
    convs = [
        (name, module) for name, module in target.named_modules(remove_duplicate=False) if isinstance(module, nn.Conv2d)
    ]
    names = [name for name, _ in target.named_modules(remove_duplicate=False)]
    for pattern in exclude:
        if not any(fnmatch(name, pattern) for name in names):
            raise InputError(f"exclude names {pattern!r}, but the model has no such module")
    shapes = {} if example is None else _input_shapes(target, example)
    made: dict[nn.Module, DistributedConv2d] = {}
    report = []
    for name, conv in convs:
        if any(fnmatch(part, pattern) for pattern in exclude for part in _parents(name)):
            report.append(LayerReport(name, False, "excluded"))
            continue
        if isinstance(conv, DistributedConv2d) or not replaceable(conv):
            why = "is one already" if isinstance(conv, DistributedConv2d) else f"{type(conv).__name__} has its own forward"
            report.append(LayerReport(name, isinstance(conv, DistributedConv2d) or False, why))
            continue
        layer = made.get(conv) or DistributedConv2d.from_conv2d(
            conv, cluster=cluster, split=split, trigger=trigger, threshold=threshold, on_loss=on_loss
        )
        entry = _judge(name, layer, shapes.get(conv, ()))
        report.append(entry)
        if entry.distributed is not False:
            made[conv] = layer
            target = _put(target, name, layer)
    target.fogconv_report = tuple(report)  # type: ignore[assignment]
    return target


def _judge(name: str, layer: DistributedConv2d, shapes: Collection[tuple[int, ...]]) -> LayerReport:
    if layer.cluster is None:
        return LayerReport(name, None, "no cluster yet: computed on the master")
    if layer.weight.dtype != torch.float32:
        return LayerReport(name, False, f"{layer.weight.dtype}: the cluster computes in float32 only")
    if not shapes:
        return LayerReport(name, None, "decided at each call by the input's size")
    verdicts = [layer.verdict(shape) for shape in shapes]
    best = max(verdicts, key=lambda verdict: verdict.distribute)
    return LayerReport(name, best.distribute, best.reason, best.split, best.bound, best.estimate)


def _input_shapes(model: nn.Module, example: torch.Tensor) -> dict[nn.Module, set[tuple[int, ...]]]:
    """(N, c, H, W) of every conv's inputs, including padding of other modes than zeros."""
    shapes: dict[nn.Module, set[tuple[int, ...]]] = {}

    def note(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        shape = tuple(inputs[0].shape) if inputs[0].dim() == 4 else (1, *inputs[0].shape)
        shapes.setdefault(module, set()).add(shape)

    hooks = [module.register_forward_pre_hook(note) for module in model.modules() if isinstance(module, nn.Conv2d)]
    training = [module for module in model.modules() if module.training]
    try:
        model.eval()
        with torch.no_grad():
            model(example)
    finally:
        for hook in hooks:
            hook.remove()
        for module in training:
            module.training = True
    return shapes


def _parents(name: str) -> Iterator[str]:
    """'a.b.c' → 'a', 'a.b', 'a.b.c': excluding a block excludes its content."""
    parts = name.split(".")
    for count in range(1, len(parts) + 1):
        yield ".".join(parts[:count])


def _put(model: nn.Module, name: str, layer: nn.Module) -> nn.Module:
    if not name:
        return layer
    parent, _, attribute = name.rpartition(".")
    setattr(model.get_submodule(parent), attribute, layer)
    return model
