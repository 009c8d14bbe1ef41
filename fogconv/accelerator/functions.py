"""Functions: the operators on single elements and across channels in torch, by the workers' names
(`fogconv.kernels.codegen.formulas`, `fogconv.kernels.maps.across_channels`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F  # noqa: N812

from fogconv.errors import KernelError, unknown
from fogconv.kernels.codegen.formulas import activation as parsed

Function = Callable[..., torch.Tensor]


def _lrn(x: torch.Tensor, size: float, alpha: float, beta: float, bias: float) -> torch.Tensor:
    """Where the window is even, its longer half comes after the channel; in torch's it comes before."""
    return F.local_response_norm(x.flip(1), int(size), alpha, beta, bias).flip(1)


def _layer_norm(x: torch.Tensor, eps: float) -> torch.Tensor:
    return (x - x.mean(1, keepdim=True)) / (x.var(1, keepdim=True, correction=0) + eps).sqrt()


ELEMENTWISE: Mapping[str, Function] = {
    "relu": F.relu,
    "relu6": F.relu6,
    "silu": F.silu,
    "hardswish": F.hardswish,
    "sigmoid": torch.sigmoid,
    "hardsigmoid": F.hardsigmoid,
    "leaky_relu": F.leaky_relu,
    "clip": torch.clamp,
    "elu": torch.ops.aten.elu,
    "gelu": lambda x, scale: F.gelu(x) * (2.0 * scale),
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "swish": lambda x, beta: x * torch.sigmoid(beta * x),
    "mish": F.mish,
    "softplus": F.softplus,
    "log_sigmoid": F.logsigmoid,
    "softsign": F.softsign,
    "hard_sigmoid": lambda x, alpha, beta: (alpha * x + beta).clamp(0.0, 1.0),
    "hard_gate": lambda x, alpha, beta, high: x * (alpha * x + beta).clamp(0.0, high),
    "tanh": torch.tanh,
    "erf": torch.erf,
    "exp": torch.exp,
    "log": torch.log,
    "sqrt": torch.sqrt,
    "reciprocal": torch.reciprocal,
    "abs": torch.abs,
    "floor": torch.floor,
    "ceil": torch.ceil,
    "round": torch.round,
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "add": torch.add,
    "subtract": torch.subtract,
    "multiply": torch.multiply,
    "divide": torch.divide,
    "prelu": lambda x, slope: torch.where(x > 0, x, slope * x),
}
"""Of one map or two, and of numbers."""

ACROSS: Mapping[str, Function] = {
    "softmax": lambda x: x.softmax(1),
    "log_softmax": lambda x: x.log_softmax(1),
    "layer_norm": _layer_norm,
    "lrn": _lrn,
}
"""Of a map and of numbers."""


def function(name: str, table: Mapping[str, Function] = ELEMENTWISE) -> Function:
    """Raises KernelError for a name that torch's workers don't know."""
    if name not in table:
        raise KernelError(unknown("an operator of --executor torch", name, table))
    return table[name]


def activation(text: str | None) -> Callable[[torch.Tensor], torch.Tensor]:
    """An activation as steps name it, with its numbers. Raises KernelError for an unknown one."""
    known = parsed(text)
    if known is None:
        return lambda x: x
    chosen, numbers = function(known.name), known.parameters
    return lambda x: chosen(x, *numbers)
