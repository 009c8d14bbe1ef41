"""One conv layer on several ranks: DistributedConv2d against torch.distributed, forward and backward, in turns.

    python -m bench.layer_vs_gloo [--json] [--repeats 15] [--tcp]

The other side is a typical program with torch.distributed over gloo, ranks as processes on one thread each: either every
rank computes a share of the output channels and all gather them (backward: all-reduce of the partial input gradients), or
every rank a share of the input channels and the partial outputs are all-reduced (backward: all-gather). The faster of the
two counts. There every rank has the whole input and ends with the whole output; in fogconv only the master has both.
Ours: a master and workers as processes over ZeroMQ on loopback, one thread each; as always between one user's processes
on one machine, large payloads use shared memory. With --tcp they are sent over loopback.

A ratio above 1 means that ours is faster. Medians over turns in which both sides run one after the other.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from fogconv.cluster.connect import connect
from fogconv.cluster.executor.executable import Executable
from fogconv.ir.program import Program
from fogconv.nn import DistributedConv2d

CASES = ((256, 14), (512, 7), (64, 56))
"""(channels in and out, rows and columns); K = 3, batch 8."""
BATCH = 8
RANKS = (2, 4)
SPLITS = ("output", "input")
STOP, RUN = 0, 1
REST_S = 0.005
"""After each side's turn, so that its other ranks are at rest when the next begins."""


class GatherOutputs(torch.autograd.Function):
    """Every rank computes a share of the output channels."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        part = F.conv2d(x, weight, None, 1, 1)
        parts = [torch.empty_like(part) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, part)
        return torch.cat(parts, 1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        share = grads[0].chunk(dist.get_world_size(), 1)[dist.get_rank()].contiguous()
        grad_x, grad_w, _ = _backward(share, x, weight)
        dist.all_reduce(grad_x)
        return grad_x, grad_w


class ReducePartialSums(torch.autograd.Function):
    """Every rank computes a share of the input channels."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        share = x.chunk(dist.get_world_size(), 1)[dist.get_rank()].contiguous()
        ctx.save_for_backward(share, weight)
        y = F.conv2d(share, weight, None, 1, 1)
        dist.all_reduce(y)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        grad_x, grad_w, _ = _backward(grads[0], x, weight)
        parts = [torch.empty_like(grad_x) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, grad_x)
        return torch.cat(parts, 1), grad_w


def _backward(grad: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    result: tuple[Tensor, Tensor, Tensor] = torch.ops.aten.convolution_backward(
        grad, x, weight, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1, [True, True, False]
    )
    return result


@dataclass(frozen=True)
class Data:
    """The same on every rank: input, weight and output gradient of one case."""

    x: Tensor
    weight: Tensor
    grad: Tensor

    @staticmethod
    def of(case: int) -> Data:
        channels, side = CASES[case]
        generator = torch.Generator().manual_seed(case)
        x = torch.randn(BATCH, channels, side, side, generator=generator).requires_grad_()
        weight = torch.randn(channels, channels, 3, 3, generator=generator) / math.sqrt(9 * channels)
        return Data(x, weight, torch.randn(BATCH, channels, side, side, generator=generator))

    def share(self, split: str) -> Tensor:
        """This rank's weights."""
        axis = 0 if split == "output" else 1
        return self.weight.chunk(dist.get_world_size(), axis)[dist.get_rank()].clone().requires_grad_()


Layer = Callable[[Tensor], Tensor]
Times = tuple[float, float]


def once(
    layer: Layer, data: Data, weight: Tensor, before: Callable[[], None] = lambda: None
) -> tuple[Times, Tensor, Tensor]:
    """((forward s, backward s), output, input gradient). Gradients are None at first, as after zero_grad."""
    data.x.grad = weight.grad = None
    before()
    begin = time.perf_counter()
    y = layer(data.x)
    middle = time.perf_counter()
    before()
    again = time.perf_counter()
    y.backward(data.grad)
    end = time.perf_counter()
    assert data.x.grad is not None
    return (middle - begin, end - again), y.detach(), data.x.grad


def gloo_layer(split: str, weight: Tensor) -> Layer:
    function = GatherOutputs if split == "output" else ReducePartialSums
    return lambda x: function.apply(x, weight)  # type: ignore[no-any-return]


def join_gloo(rank: int, ranks: int, port: int) -> None:
    torch.set_num_threads(1)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=ranks)


def serve_gloo(rank: int, ranks: int, port: int) -> None:
    """A rank of the other side: computes whenever rank 0 does."""
    join_gloo(rank, ranks, port)
    data = {case: Data.of(case) for case in range(len(CASES))}
    weights = {(case, split): data[case].share(split) for case in data for split in SPLITS}
    while True:
        order = torch.zeros(3, dtype=torch.int64)
        dist.broadcast(order, 0)
        what, case, split = order.tolist()
        if what == STOP:
            break
        weight = weights[case, SPLITS[split]]
        once(gloo_layer(SPLITS[split], weight), data[case], weight, dist.barrier)
        dist.barrier()
    dist.destroy_process_group()


def one_thread(program: Program, weights: Mapping[str, Any], host: Any) -> Executable:
    """The master's process, on one thread like all others."""
    return Executable(program, weights, threads=1, host=host)


def measure(ranks: int, repeats: int, shared: bool) -> list[dict[str, Any]]:
    """All cases on so many ranks; ``shared``: see `connect`."""
    port = _free_port()
    with contextlib.ExitStack() as stack:
        for rank in range(1, ranks):
            command = ["-m", "bench.layer_vs_gloo", "--serve", str(rank), str(ranks), str(port)]
            stack.enter_context(_process(*command))
        addresses = [f"tcp://127.0.0.1:{_free_port()}" for _ in range(1, ranks)]
        for address in addresses:
            stack.enter_context(_process("-m", "fogconv.cli.commands.worker", "--bind", address, "--threads", "1"))
        join_gloo(0, ranks, port)
        session = stack.enter_context(connect(addresses, connect_timeout_s=60.0, local=one_thread, shared=shared))
        rows = []
        for case, (channels, side) in enumerate(CASES):
            data = Data.of(case)
            ours: dict[str, tuple[Layer, Tensor]] = {}
            theirs: dict[str, tuple[Layer, Tensor]] = {}
            for split in SPLITS:
                conv = DistributedConv2d(
                    channels, channels, 3, padding=1, bias=False, cluster=session, threshold=0, split=split
                )
                conv.weight = torch.nn.Parameter(data.weight.clone())
                share = data.share(split)
                ours[split], theirs[split] = (conv, conv.weight), (gloo_layer(split, share), share)
            samples: dict[tuple[str, str], list[Times]] = {
                (side_, split): [] for side_ in ("ours", "gloo") for split in SPLITS
            }
            for repeat in range(repeats + 2):
                for split in SPLITS:
                    dist.broadcast(torch.tensor([RUN, case, SPLITS.index(split)]), 0)
                    (layer, weight) = theirs[split]
                    gloo, y, grad = once(layer, data, weight, dist.barrier)
                    dist.barrier()
                    time.sleep(REST_S)
                    (layer, weight) = ours[split]
                    fog, y2, grad2 = once(layer, data, weight)
                    time.sleep(REST_S)
                    assert torch.allclose(y, y2, atol=1e-3)
                    assert torch.allclose(grad, grad2, atol=1e-3)
                    if repeat >= 2:  # the first ones compile and load
                        samples["gloo", split].append(gloo)
                        samples["ours", split].append(fog)
            best = {
                (who, way): min(statistics.median(times[way] for times in samples[who, split]) for split in SPLITS)
                for who in ("ours", "gloo")
                for way in (0, 1)
            }
            rows.append(
                {
                    "case": f"{channels} channels {side}x{side}",
                    "ranks": ranks,
                    "forward_ratio": best["gloo", 0] / best["ours", 0],
                    "backward_ratio": best["gloo", 1] / best["ours", 1],
                    "forward_s": best["ours", 0],
                    "backward_s": best["ours", 1],
                    "gloo_forward_s": best["gloo", 0],
                    "gloo_backward_s": best["gloo", 1],
                }
            )
        dist.broadcast(torch.tensor([STOP, 0, 0]), 0)
        dist.destroy_process_group()
        return rows


@contextlib.contextmanager
def _process(*command: str) -> Iterator[None]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    started = subprocess.Popen([sys.executable, *command], env=environment)
    try:
        yield
    finally:
        started.terminate()
        started.wait()


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one object on stdout")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--tcp", action="store_true", help="no shared memory")
    parser.add_argument("--ranks", type=int, nargs="*", default=RANKS)
    parser.add_argument("--serve", type=int, nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve_gloo(*options.serve)
        return
    rows = [row for ranks in options.ranks for row in measure(ranks, options.repeats, not options.tcp)]
    ratios = [row[way] for row in rows for way in ("forward_ratio", "backward_ratio")]
    geomean = math.exp(statistics.fmean(math.log(ratio) for ratio in ratios))
    if options.json:
        print(json.dumps({"cases": rows, "geomean": geomean}))
        return
    for row in rows:
        print(
            f"{row['case']:22} {row['ranks']} ranks  forward {row['forward_ratio']:.2f} "
            f"({row['forward_s'] * 1e3:.1f} ms, gloo {row['gloo_forward_s'] * 1e3:.1f})  "
            f"backward {row['backward_ratio']:.2f} "
            f"({row['backward_s'] * 1e3:.1f} ms, gloo {row['gloo_backward_s'] * 1e3:.1f})"
        )
    print(f"geometric mean {geomean:.2f}")


if __name__ == "__main__":
    main()
