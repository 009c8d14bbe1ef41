"""DistributedConv2d: nn.Conv2d, computed by a cluster where that pays.

    x ─▶ pad (where the mode is not zeros) ─▶ shards to the ranks ─▶ conv ─▶ join ─▶ + bias ─▶ y

In everything else it is an nn.Conv2d: the same constructor, parameters, state_dict, errors. Calls that the cluster can't
do (other types than float32, other devices than the CPU, tracing, functorch) run in torch as usual.
"""

from __future__ import annotations

import copy
import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Literal
from weakref import finalize

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from fogconv.cluster.session.session import Session
from fogconv.errors import ClusterError, GeometryError, InputError
from fogconv.ir.geometry import ConvSpec
from fogconv.nn.attached import SplitChoice, Verdict, attached, check_split
from fogconv.nn.remote import RemoteConv
from fogconv.planning.plan_options import PlanOptions

OnLoss = Literal["local", "raise"]

DEFAULTS = PlanOptions("star")

SIZES_KEPT = 8
"""Input sizes whose programs a layer keeps loaded; the least recently used is unloaded first."""


class DistributedConv2d(nn.Conv2d):
    """nn.Conv2d(…), and keyword-only:

    ``cluster``    a session from `fogconv.connect`, or None, which makes it an nn.Conv2d
    ``split``      "auto" (the cheapest), "input" or "output" channels, or (p, q): p input × q output groups
    ``trigger``    "both", "bound", "estimate" or "channels:N", and ``threshold``: as in ``fogconv run``
    ``on_loss``    what to do when the cluster fails in the middle: "local" finishes in torch with a warning, "raise" raises

    Input (N, c, H, W) or (c, H, W). Raises what nn.Conv2d raises, InputError for wrong settings. A copy uses the same
    cluster; an unpickled layer has none.
    """

    def __init__(
        self,
        *args: Any,
        cluster: Session | None = None,
        split: SplitChoice = "auto",
        trigger: str = DEFAULTS.trigger,
        threshold: float = DEFAULTS.threshold,
        on_loss: OnLoss = "local",
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._attach(cluster, split, PlanOptions("star", trigger=trigger, threshold=threshold), on_loss)

    @classmethod
    def from_conv2d(
        cls,
        conv: nn.Conv2d,
        *,
        cluster: Session | None = None,
        split: SplitChoice = "auto",
        trigger: str = DEFAULTS.trigger,
        threshold: float = DEFAULTS.threshold,
        on_loss: OnLoss = "local",
    ) -> DistributedConv2d:
        """A layer with the parameters, hooks and mode of an nn.Conv2d; the parameters are shared, not copied.

        Raises InputError for a subclass with its own forward, which would be lost.
        """
        if not replaceable(conv):
            raise InputError(f"{type(conv).__name__} has its own way of computing; only a plain nn.Conv2d can be replaced")
        kind = _parametrized(cls, conv) if is_parametrized(conv) else cls
        layer = kind.__new__(kind)
        # Parameters, buffers and hooks are the same objects, in the layer's own dicts.
        layer.__dict__.update(
            {key: copy.copy(value) if isinstance(value, dict) else value for key, value in vars(conv).items()}
        )
        layer._attach(cluster, split, PlanOptions("star", trigger=trigger, threshold=threshold), on_loss)
        return layer

    def _attach(self, cluster: Session | None, split: SplitChoice, options: PlanOptions, on_loss: OnLoss) -> None:
        if on_loss not in ("local", "raise"):
            raise InputError(f"on_loss is {on_loss!r}; it must be 'local' or 'raise'")
        self.cluster = cluster
        self.split = check_split(split)
        self.options = options
        self.on_loss = on_loss
        self._fresh_state()

    @property
    def trigger(self) -> str:
        return self.options.trigger

    @property
    def threshold(self) -> float:
        return self.options.threshold

    def _fresh_state(self) -> None:
        self._remotes = _Remotes()
        self._told: set[str] = set()

    # Copies share the cluster, but not the state that it holds for this layer; files hold neither.

    def __deepcopy__(self, memo: dict[int, Any]) -> DistributedConv2d:
        twin = type(self).__new__(type(self))
        memo[id(self)] = twin
        apart = ("cluster", "_remotes", "_told")
        twin.__dict__.update({key: copy.deepcopy(value, memo) for key, value in self.__dict__.items() if key not in apart})
        twin.__dict__["cluster"] = self.cluster
        twin._fresh_state()
        return twin

    def __getstate__(self) -> dict[str, Any]:
        apart = ("_remotes", "_told")
        return {key: value for key, value in self.__dict__.items() if key not in apart} | {"cluster": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._fresh_state()

    def extra_repr(self) -> str:
        text: str = super().extra_repr()  # type: ignore[no-untyped-call]
        if self.cluster is None:
            return text
        count = len(self.cluster.workers)
        where = "closed" if self.cluster.closed else f"{count} worker{'' if count == 1 else 's'}"
        settings = f"trigger={self.options.trigger!r}, threshold={self.options.threshold:g}"
        return f"{text}, cluster={where}, split={self.split!r}, {settings}"

    def verdict(self, shape: tuple[int, ...]) -> Verdict:
        """The decision for an input of this shape (N, c, H, W), and the reason. Raises GeometryError for impossible
        shapes."""
        if self.cluster is None or self.cluster.closed:
            return Verdict(False, "no cluster")
        batch, _, height, width = shape
        spec = self._spec(batch, height, width, self._four())
        return attached(self.cluster).decide(self.cluster, spec, self.split, self.options)

    # Forward

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        reason = self._obstacle(input, weight, bias)
        if reason is not None:
            self._tell(reason)
            return self._at_home(input, weight, bias)
        x = input if input.dim() == 4 else input.unsqueeze(0)
        if self.padding_mode != "zeros":
            x = F.pad(x, self._reversed_padding_repeated_twice, mode=self.padding_mode)
            padding = (0, 0, 0, 0)
        else:
            padding = self._four()
        try:
            spec = self._spec(x.shape[0], x.shape[2], x.shape[3], padding)
        except GeometryError:
            return self._at_home(input, weight, bias)  # torch raises its own error
        remote = self._remote(spec)
        if remote is None:
            return self._at_home(input, weight, bias)
        y: Tensor = _Convolve.apply(x, weight, remote, self._failed)  # type: ignore[no-untyped-call]
        if bias is not None:
            y = y + bias.view(1, -1, 1, 1)
        if x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous():
            y = y.contiguous(memory_format=torch.channels_last)
        return y if input.dim() == 4 else y.squeeze(0)

    def _at_home(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        result: Tensor = super()._conv_forward(input, weight, bias)
        return result

    def _obstacle(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> str | None:
        """The reason why torch computes the conv; '' where it needs no message."""
        if self.cluster is None or self.cluster.closed:
            return ""
        tensors = [x, weight] if bias is None else [x, weight, bias]
        if torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None:
            return ""
        if any(type(tensor) not in (Tensor, nn.Parameter) or _transformed(tensor) for tensor in tensors):
            return ""
        if any(tensor.dtype != torch.float32 for tensor in tensors):
            return f"{x.dtype} input and {weight.dtype} weights: the cluster computes in float32 only"
        if any(tensor.device.type != "cpu" for tensor in tensors):
            return f"on {x.device}: the cluster takes arrays from the CPU"
        if torch.is_autocast_enabled("cpu"):
            return "under autocast: the cluster computes in float32 only"
        channels = x.shape[-3] if x.dim() in (3, 4) else -1
        if channels != self.in_channels or tuple(weight.shape[1:]) != self._weight_shape()[1:] or not x.numel():
            return ""
        return None

    def _weight_shape(self) -> tuple[int, ...]:
        return (self.out_channels, self.in_channels // self.groups, *self.kernel_size)

    def _four(self) -> tuple[int, int, int, int]:
        """(top, bottom, left, right)."""
        left, right, top, bottom = self._reversed_padding_repeated_twice
        return (top, bottom, left, right)

    def _spec(self, batch: int, height: int, width: int, padding: tuple[int, int, int, int]) -> ConvSpec:
        return ConvSpec(
            self.in_channels,
            self.out_channels,
            height,
            width,
            (self.kernel_size[0], self.kernel_size[1]),
            (self.stride[0], self.stride[1]),
            padding,
            (self.dilation[0], self.dilation[1]),
            self.groups,
            batch,
        )

    def _remote(self, spec: ConvSpec) -> RemoteConv | None:
        """The conv on the cluster, or None where it stays on the master."""
        session = self.cluster
        assert session is not None
        alive = tuple(info.rank for info in session.workers)
        key = (spec, alive, id(session), self.split, self.options)
        home = attached(session)
        home.clear()
        with self._remotes.lock:
            if key in self._remotes.by_size:
                self._remotes.by_size.move_to_end(key)
                return self._remotes.by_size[key]
            try:
                verdict = home.decide(session, spec, self.split, self.options)
            except ClusterError as error:
                self._failed(error)
                return None
            remote = RemoteConv(session, spec, verdict.shards) if verdict.distribute else None
            if remote is not None:
                finalize(self._remotes, home.discard, remote).atexit = False
            self._remotes.by_size[key] = remote
            if len(self._remotes.by_size) > SIZES_KEPT:
                _, old = self._remotes.by_size.popitem(last=False)
                if old is not None:
                    home.discard(old)
            return remote

    def _failed(self, error: ClusterError) -> None:
        """Raise the error, or warn that torch finishes the call."""
        if self.on_loss == "raise":
            raise error
        warnings.warn(
            f"the cluster failed ({error}); this layer continues in torch on the master", RuntimeWarning, stacklevel=3
        )

    def _tell(self, reason: str) -> None:
        if reason and reason not in self._told:
            self._told.add(reason)
            warnings.warn(f"{type(self).__name__} runs in torch on the master {reason}", UserWarning, stacklevel=3)


def _parametrized(cls: type[DistributedConv2d], conv: nn.Conv2d) -> type[DistributedConv2d]:
    """torch.nn.utils.parametrize gives a module its own class, with properties instead of parameters."""
    names = list(conv.parametrizations)  # type: ignore[arg-type]
    return type(f"Parametrized{cls.__name__}", (cls,), {name: getattr(type(conv), name) for name in names})


class _Remotes:
    """A layer's convs on the cluster by input size; None where the size stays on the master."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.by_size: OrderedDict[Any, RemoteConv | None] = OrderedDict()


def replaceable(conv: nn.Module) -> bool:
    """Whether a module is an nn.Conv2d that computes as nn.Conv2d does (a parametrized one too)."""
    if not isinstance(conv, nn.Conv2d) or isinstance(conv, nn.modules.lazy.LazyModuleMixin):
        return False
    kind = type(conv)
    plain = kind.forward is nn.Conv2d.forward and kind._conv_forward is nn.Conv2d._conv_forward
    return plain and "forward" not in conv.__dict__ and kind.__call__ is nn.Module.__call__


def _transformed(tensor: Tensor) -> bool:
    """Inside vmap, grad or jvp, or where forward-mode gradients are taken: torch's own conv handles that."""
    if torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        return True
    return bool(torch.autograd.forward_ad._current_level >= 0)


class _Convolve(torch.autograd.Function):
    """conv(x, weight) without a bias, on the cluster, as are both gradients.

    Gradients of gradients are computed in torch on the master.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, remote: RemoteConv, failed: Callable[[ClusterError], None]) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.spec, ctx.remote, ctx.failed, ctx.token = remote.spec, remote, failed, 0
        keep = ctx.needs_input_grad[1]
        try:
            y, ctx.token = remote.forward(x.numpy(), weight.numpy(), _version(weight), keep=keep)
        except ClusterError as error:
            failed(error)
            ctx.remote = None
            return _locally(x, weight, remote.spec)
        return torch.from_numpy(y)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        (grad,) = grads
        x, weight = ctx.saved_tensors
        remote: RemoteConv | None = ctx.remote
        wants_x, wants_w = ctx.needs_input_grad[:2]
        if torch.is_grad_enabled() or remote is None or remote.session.closed:  # create_graph=True: torch derives
            return (*_gradients(grad, x, weight, ctx.spec, wants_x, wants_w), None, None)
        try:
            grad_x, grad_w = remote.backward(
                grad.numpy(), x.numpy(), weight.numpy(), _version(weight), ctx.token, grad_x=wants_x, grad_w=wants_w
            )
        except ClusterError as error:
            ctx.failed(error)
            return (*_gradients(grad, x, weight, ctx.spec, wants_x, wants_w), None, None)
        return (
            None if grad_x is None else torch.from_numpy(grad_x),
            None if grad_w is None else torch.from_numpy(grad_w),
            None,
            None,
        )


def _version(weight: Tensor) -> int:
    """The tensor's counter of writes. A tensor made in inference mode has none; its values are compared."""
    return 0 if weight.is_inference() else int(weight._version)


def _pads(spec: ConvSpec) -> tuple[list[int], list[int] | None]:
    """(padding for conv2d, pads to add before it where the two sides differ)."""
    top, bottom, left, right = spec.padding
    return ([top, left], None) if (top, left) == (bottom, right) else ([0, 0], [left, right, top, bottom])


def _locally(x: Tensor, weight: Tensor, spec: ConvSpec) -> Tensor:
    padding, around = _pads(spec)
    x = x if around is None else F.pad(x, around)
    return F.conv2d(x, weight, None, spec.stride, padding, spec.dilation, spec.groups)


def _gradients(
    grad: Tensor, x: Tensor, weight: Tensor, spec: ConvSpec, wants_x: bool, wants_w: bool
) -> tuple[Tensor | None, Tensor | None]:
    padding, around = _pads(spec)
    padded = x if around is None else F.pad(x, around)
    grad_x, grad_w, _ = torch.ops.aten.convolution_backward(
        grad,
        padded,
        weight,
        None,
        spec.stride,
        padding,
        spec.dilation,
        False,
        [0, 0],
        spec.groups,
        [wants_x, wants_w, False],
    )
    if wants_x and around is not None:
        top, _, left, _ = spec.padding
        grad_x = grad_x[:, :, top : top + spec.height, left : left + spec.width]
    return (grad_x if wants_x else None, grad_w if wants_w else None)
