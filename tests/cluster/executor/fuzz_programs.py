"""Programs from strangers through check, binding and a run, between pages that nobody may touch.

    python -m tests.cluster.executor.fuzz_programs CORPUS -max_total_time=60

Inputs are honest programs (lowered from random graphs in every scheme), programs composed at random of steps that fit
each other, and either with a few values changed. What the worker's check lets pass must bind and run, or be refused by an
error of fogconv's: it must not crash, hang, raise anything else, or touch memory outside its arrays.

An input's first byte says whether arrays lie at the end or at the begin of their pages, how many threads compute, and
whether payloads are of the right size; the rest is the program.
"""

from __future__ import annotations

import importlib
import math
import pkgutil
import random
import re
import zlib
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cache
from typing import Any

import hypothesis
import msgspec
import numpy as np
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import fogconv.kernels
from fogconv.cluster.executor import executable as interpreter
from fogconv.cluster.executor.executable import Executable
from fogconv.cluster.executor.microbenchmark import NoMailbox
from fogconv.cluster.worker.checks.program_check import check_program
from fogconv.errors import FogconvError, WireError
from fogconv.hardware.topology import Topology
from fogconv.ir import steps as ir
from fogconv.ir.geometry import ConvSpec, PoolSpec, Region, Span
from fogconv.ir.graph import LayerGraph
from fogconv.ir.guard import Protection
from fogconv.ir.program import Program, decode, encode
from fogconv.kernels.maps import blocked, wire
from fogconv.lowering.lower import lower
from fogconv.planning.plan_options import PlanOptions
from fogconv.planning.planner import plan as make_plan
from fogconv.planning.scheme_options import SchemeOptions
from fogconv.planning.star import plan_star
from tests.fuzzing import CORPUS, Fuzzer
from tests.kernels import guarded
from tests.mutations import mutated
from tests.quantized_net import on_bytes
from tests.random_graphs import graphs

MEMORY_BYTES = 32 << 20
MOST_WORK = 2e8
"""Programs with more multiply-adds are checked and not run: they are right, and slow."""
FLUSH, TWO_THREADS, WRONG_SIZES = 1, 2, 4


def try_one(data: bytes) -> Collection[str]:
    """Raises nothing but for a bug."""
    flags, packed = (data[0], data[1:]) if data else (0, b"")
    try:
        program = decode(packed)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return {"malformed"}
    try:
        check_program(program, MEMORY_BYTES)
    except FogconvError as error:
        return {_kind(error)}
    if _work(program) > MOST_WORK:
        return {"much work"}
    guarded.at_end = bool(flags & FLUSH)
    guarded._kept.clear()
    try:
        weights = {key: _weight(program, key) for key in program.weights}
        executable = Executable(program, weights, threads=2 if flags & TWO_THREADS else 1, host=_host(program))
        for _ in range(2):
            executable.run(Post(program, wrong=bool(flags & WRONG_SIZES)), _inputs(program))
            executable.arrays.settle()
    except FogconvError as error:
        return {_kind(error)}
    return {_trait(step) for step in program.steps}


def _kind(error: FogconvError) -> str:
    text = re.sub(r"weights? \S+|layer \S+|\S*conv\S*", "", str(error))
    return f"{type(error).__name__} {re.sub(r'[^a-zA-Z]+', ' ', text)[:60]}"


def _trait(step: ir.AnyStep) -> str:
    """What makes a step take a way of its own."""
    more: Any = ""
    match step:
        case ir.Conv():
            spec = step.spec
            more = (spec.groups > 1, spec.depthwise, min(spec.kernel) > 1, max(spec.stride) > 1, step.residual is not None)
        case ir.Send() | ir.Recv():
            more = (step.wire, bool(step.more))
        case ir.Pool():
            more = (step.spec.kind, step.spec.ceil_mode, max(step.spec.dilation) > 1)
    return f"{type(step).__name__} {more}"


def _work(program: Program) -> float:
    work = 0.0
    for step in program.steps:
        spec = getattr(step, "spec", None)
        if isinstance(spec, ConvSpec):
            work += spec.macs
        if isinstance(step, ir.Gather):
            work += sum(piece.spare.spec.macs for piece in step.pieces)
        if isinstance(step, ir.Pool):
            work += step.target_region.elements * math.prod(map(min, zip(step.spec.kernel, (64, 64), strict=True)))
    return work


def _filled(shape: tuple[int, ...], seed: int) -> np.ndarray:
    array = guarded.guarded(shape)
    array[...] = np.random.default_rng(seed).standard_normal(shape, np.float32)
    return array


def _weight(program: Program, key: str) -> np.ndarray:
    shape, kind = tuple(program.weights[key]), np.dtype(program.weight_types.get(key, "float32"))
    if kind == np.float32:
        return _filled(shape, zlib.crc32(key.encode()))
    array = guarded.guarded(shape, kind)
    array[...] = np.random.default_rng(zlib.crc32(key.encode())).integers(-127, 127, shape, kind, endpoint=True)
    return array


def _inputs(program: Program) -> list[np.ndarray]:
    """What the master's Input and ArrayInput steps take."""
    shapes = {step.index: (program.batch, *step.region.shape) for step in program.steps if isinstance(step, ir.Input)}
    specs = [step.spec for step in program.steps if isinstance(step, ir.ConvForward)]
    shape = specs[0].input_shape if specs else (1, 1, 1, 1)
    shapes |= {step.index: shape for step in program.steps if isinstance(step, ir.ArrayInput)}
    return [_filled(shapes.get(index, (1, 1, 1, 1)), index) for index in range(min(8, max(shapes, default=-1) + 1))]


def _host(program: Program) -> Any:
    steps = {step.layer: step for step in program.steps if isinstance(step, ir.Host)}

    def call(layer: int, values: Any, maps: Sequence[Any]) -> list[np.ndarray]:
        return [_filled((program.batch, *region.shape), layer) for region in steps[layer].target_regions]

    return call


def _payload(elements: int, form: str) -> bytes:
    draw = np.random.default_rng(elements)
    if form in ("uint8", "int32"):
        kind = wire.DTYPES[form]
        return draw.integers(np.iinfo(kind).min, np.iinfo(kind).max, elements, kind, endpoint=True).tobytes()
    return bytes(wire.encode(draw.standard_normal(elements).astype(np.float32), form))


class Post(NoMailbox):
    """A mailbox in which every message is that this program may receive, each in memory of its own."""

    def __init__(self, program: Program, wrong: bool) -> None:
        super().__init__()
        self.given_up: set[int] = set()
        self._wrong = wrong
        self._messages: dict[tuple[int, int], bytes | memoryview] = {}
        for step in program.steps:
            for recv in ir.gathers(step) if isinstance(step, ir.Gather) else (step,):
                if isinstance(recv, ir.Recv):
                    self._messages[recv.origin, recv.tag] = self._payload(program, recv)
                elif isinstance(recv, ir.ArrayRecv):
                    array = _filled(recv.shape, recv.tag % 1000)
                    self._messages[recv.origin, recv.tag] = array.reshape(-1).view(np.uint8).data

    def _payload(self, program: Program, recv: ir.Recv) -> bytes | memoryview:
        _, at = wire.spans(program.batch, [part.region.shape for part in recv.parts])
        raw = _payload(at, recv.wire)
        raw = raw[: len(raw) // 2] if self._wrong else raw
        place = guarded.guarded(len(raw), np.uint8)
        place[...] = np.frombuffer(raw, np.uint8)
        return place.data

    def send(self, to: int, tag: int, payload: Any) -> None:
        assert len(bytes(payload)) == len(payload)

    def receive(self, origin: int, tag: int) -> Any:
        if (origin, tag) not in self._messages:
            raise WireError("nothing comes")
        return self._messages[origin, tag]

    def receive_any(self, wanted: Sequence[tuple[int, int]], deadline: float | None) -> tuple[int, Any] | None:
        # By turns a piece is late, is lost, or comes.
        self._turn = getattr(self, "_turn", 0) + 1
        if deadline is not None and self._turn % 5 == 0:
            return None
        return (len(wanted) - 1, None if self._turn % 3 == 0 else self._messages[wanted[-1]])

    def tell(self, event: str) -> None: ...
    def give_up(self, origin: int) -> None: ...
    def skip(self, origin: int) -> None: ...


# Between guard pages


class _GuardedNumpy:
    """numpy, but what it takes for payloads lies between guard pages."""

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)

    def zeros(self, shape: Any, dtype: Any = np.float32) -> np.ndarray:
        return guarded.guarded(shape, dtype)

    empty = zeros


def prepare() -> None:
    """From now on all arrays of the kernels and of the interpreter lie between guard pages, each map in its own memory."""
    for found in pkgutil.walk_packages(fogconv.kernels.__path__, "fogconv.kernels."):
        module: Any = importlib.import_module(found.name)
        if hasattr(module, "aligned_zeros"):
            module.aligned_zeros = lambda shape, alignment=64, kind=np.float32: guarded.guarded(shape, kind)
    apart = staticmethod(lambda memory, *sizes: blocked.Blocked.empty(*sizes, kind=memory.dtype))
    blocked.Blocked.within = apart  # type: ignore[method-assign]
    interpreter.np = _GuardedNumpy()  # type: ignore[assignment]
    lowered()


# Making programs


def seeds() -> Mapping[str, bytes]:
    return {str(number): bytes([number % 4]) + data for number, data in enumerate((*lowered()[:40], *lowered()[-12:]))}


@cache
def lowered() -> tuple[bytes, ...]:
    """Programs of random graphs, in every scheme, the master's included."""
    found: list[bytes] = []

    @hypothesis.seed(5)
    @settings(
        max_examples=25, database=None, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
    )
    @given(graphs(), st.integers(2, 4), st.sampled_from(["auto", "depth", "rows", "tiles", "star", "guarded"]))
    def lower_some(graph: LayerGraph, ranks: int, scheme: str) -> None:
        topology = Topology.uniform(ranks, 1e9, 1e11)
        if scheme in ("star", "guarded"):
            protection = Protection(True, 1, 3.0) if scheme == "guarded" else Protection()
            plan = plan_star(graph, topology, SchemeOptions(threshold=0, protection=protection))
        else:
            plan = make_plan(graph, topology, PlanOptions(scheme))
        for program in lower(graph, plan).programs:
            if program.steps:
                dense = (step for step in program.steps if isinstance(step, ir.Conv) and step.spec.groups == 1)
                swapped = tuple(dict.fromkeys(step.weight for step in dense)) if scheme != "guarded" else ()
                found.extend(map(encode, (program, msgspec.structs.replace(program, swapped=swapped))))

    lower_some()
    for scheme in ("rows", "columns", "depth", "star"):
        topology = Topology.uniform(3, 1e8, 1e10, 1e-7)
        options = PlanOptions(scheme, threshold=0.0) if scheme == "star" else PlanOptions(scheme)
        found.extend(map(encode, lower(on_bytes().graph, make_plan(on_bytes().graph, topology, options)).programs))
    return tuple(found)


def make(generator: random.Random, pool: list[bytes]) -> bytes:
    flags = generator.choice([0, FLUSH, FLUSH, TWO_THREADS, FLUSH | TWO_THREADS, FLUSH | WRONG_SIZES])
    if generator.random() < 0.5:
        packed = encode(composed(generator))
    else:
        packed = generator.choice(pool)[1:] if pool and generator.random() < 0.6 else generator.choice(lowered())
    for _ in range(generator.choice([0, 0, 1, 1, 2, 3])):
        packed = mutated(packed, generator)
    return bytes([flags]) + packed


# Programs composed of steps that fit


class Composer:
    """Steps in turn, each with buffers of its own that are larger than it needs, on one rank."""

    CHANNELS = (1, 2, 3, 4, 5, 8, 15, 16, 17, 24, 32, 37, 48)

    def __init__(self, generator: random.Random) -> None:
        self.r = generator
        self.batch = generator.choice([1, 1, 2, 3])
        self.buffers: list[ir.Buffer] = []
        self.steps: list[ir.AnyStep] = []
        self.weights: dict[str, tuple[int, ...]] = {}

    def place(self, shape: tuple[int, int, int], margin: Sequence[int] = (0, 0, 0, 0)) -> tuple[int, Region]:
        """A new buffer and in it a region of this shape, with at least this margin around."""
        r = self.r
        spans, around = [], []
        for axis, size in enumerate(shape):
            before = r.choice([0, 0, 0, 16]) if axis == 0 else r.choice([0, 0, 0, 1, 2])
            after, origin = r.choice([0, 0, 0, 1, 5]), r.choice([0, 0, 3, 100])
            spans.append((Span(origin, origin + before + size + after), Span(origin + before, origin + before + size)))
            around.append((before, after))
        needed = [max(0, need - has) for need, has in zip(margin, (*around[1], *around[2]), strict=True)]
        more = r.choice([0, 0, 1, 3])
        outer, inner = (Region(*(pair[side] for pair in spans)) for side in (0, 1))
        top, bottom, left, right = (side + more for side in needed)
        self.buffers.append(ir.Buffer(f"t{len(self.buffers)}", outer, (top, bottom, left, right)))
        return len(self.buffers) - 1, inner

    def weight(self, *shape: int) -> str:
        key = f"w{len(self.weights)}"
        self.weights[key] = shape
        return key

    def shape(self) -> tuple[int, int, int]:
        return (self.r.choice(self.CHANNELS), self.r.randint(1, 12), self.r.randint(1, 20))

    def activation(self) -> Any:
        return self.r.choice([None, "relu", "relu6", "silu", "hardswish", "sigmoid", "hardsigmoid", "mish", "clip(-1, 2)"])

    def spec(self, *, most_padding: int = 4) -> ConvSpec | None:
        r = self.r
        c, h, w = self.shape()
        groups = r.choice([1, 1, 1, *(g for g in (2, 3, 4, c // 2, c) if g and c % g == 0)])
        outs = r.choice([c, groups * r.choice([1, 2, 5, 16]), groups])
        kernel = r.choice([(1, 1), (3, 3), (5, 5), (1, 7), (3, 1), (2, 3), (h, w), (r.randint(1, 9), r.randint(1, 9))])
        stride = r.choice([(1, 1), (1, 1), (2, 2), (1, 3), (4, 1), (r.choice([9, 64, 60_000]), 1)])
        padding = r.choice([(0, 0, 0, 0), (1, 1, 1, 1), tuple(r.randint(0, most_padding) for _ in range(4))])
        dilation = r.choice([(1, 1), (1, 1), (2, 2), (1, 3), (1, 60_000)])
        try:
            return ConvSpec(c, outs, h, w, kernel, stride, padding, dilation, groups, self.batch)  # type: ignore[arg-type]
        except ValueError:
            return None

    def conv(self) -> None:
        spec = self.spec()
        if spec is None:
            return
        source, source_region = self.place(spec.input_shape[1:], spec.padding)
        target, target_region = self.place(spec.output_shape[1:])
        residual, residual_region = (None, None)
        match self.r.randrange(3):
            case 0:
                residual, residual_region = self.place(spec.output_shape[1:])
            case 1:
                residual, residual_region = target, target_region
        bias = self.weight(spec.out_channels) if self.r.random() < 0.5 else None
        key = self.weight(*spec.weight_shape)
        step = ir.Conv(0, spec, key, bias, self.activation(), source, source_region, target, target_region)
        self.steps.append(msgspec.structs.replace(step, residual=residual, residual_region=residual_region))

    def pool(self) -> None:
        r = self.r
        c, h, w = self.shape()
        kernel, dilation = (r.randint(1, 5), r.randint(1, 5)), r.choice([(1, 1), (1, 1), (2, 1)])
        pads = tuple(r.randint(0, 3) for _ in range(4))
        stride = (r.randint(1, 4), r.randint(1, 4))
        try:
            spec = PoolSpec(
                r.choice(["max", "avg"]), c, h, w, kernel, stride, pads, dilation, r.random() < 0.5, r.random() < 0.5,
                r.choice([None, None, 3, -2]), self.batch,
            )  # type: ignore[arg-type]  # fmt: skip
        except ValueError:
            return
        source, _ = self.place((c, h, w))
        target, made = self.place((c, spec.out_height, spec.out_width))
        # Regions of steps are in the layer's own coordinates; both buffers begin at its origin here.
        self.buffers[source] = ir.Buffer("in", Region.whole(c, h, w), self.buffers[source].margin)
        self.buffers[target] = ir.Buffer("out", Region.whole(c, *made.shape[1:]), self.buffers[target].margin)
        first = r.randrange(spec.out_height)
        out = Region(Span(0, c), Span(first, spec.out_height), Span(0, spec.out_width))
        self.steps.append(ir.Pool(0, spec, source, Region.whole(c, h, w), target, out))

    def maps(self) -> None:
        r, shape = self.r, self.shape()
        one, two, target = (self.place(shape) for _ in range(3))
        pixel = self.place((shape[0], 1, 1))
        scale, shift = (self.weight(shape[0]) if r.random() < 0.5 else None for _ in range(2))
        steps: list[ir.AnyStep] = [
            ir.Add(0, (one[0], two[0], one[0]), (one[1], two[1], one[1]), *target, self.activation()),
            ir.Affine(0, *one, *target, scale, shift, self.activation(), *r.choice([(None, None), two, target])),
            ir.Elementwise(0, "leaky_relu", one[:1], one[1:], *target, (0.1,)),
            ir.Elementwise(0, "maximum", (one[0], two[0]), (one[1], two[1]), *target),
            ir.Elementwise(0, "multiply", (pixel[0], one[0]), (pixel[1], one[1]), *target),
            ir.AcrossChannels(0, r.choice(["softmax", "log_softmax"]), *one, *target),
            ir.AcrossChannels(0, "layer_norm", *one, *target, (0.1,), scale, shift),
            ir.AcrossChannels(0, "lrn", *one, *target, (float(r.randint(0, 40)), 0.1, 0.75, 1.0)),
            ir.Squares(0, *one, *pixel, *pixel, r.choice([1, shape[0], 3]), r.choice([0, 1]), r.choice([1, 7])),
            ir.Normalize(
                0, *one, *pixel, *pixel, *target, r.choice([1, shape[0], 3]), 0, 0.1, scale, shift, self.activation()
            ),
            ir.Gate(0, *one, *pixel, *target),
            ir.GlobalPool(0, *one, *pixel, r.choice([1, 7, 2**40])),
            ir.Permute(0, *one, *target, tuple(r.randrange(shape[0]) for _ in range(shape[0]))),
        ]
        self.steps += r.sample(steps, r.randint(1, 3))

    def copies(self) -> None:
        """Within a buffer, or to one of the same coordinates: the channels move."""
        r = self.r
        c, h, w = self.shape()
        room = c + r.randint(0, 20)
        self.buffers += [ir.Buffer(name, Region.whole(room, h, w)) for name in ("from", "to")]
        source, target = len(self.buffers) - 2, len(self.buffers) - 1
        first, to = r.randint(0, room - c), r.randint(0, room - c)
        region = Region(Span(first, first + c), Span(0, h), Span(0, w))
        self.steps.append(ir.Copy(0, source, region, target, to - first, r.random() < 0.5))

    def messages(self) -> None:
        r = self.r
        tag, form = r.randint(0, 9), r.choice(["fp32", "fp32", "fp16", "bf16", "zeros", "lz4", "zstd"])
        places = [self.place(self.shape()) for _ in range(r.choice([1, 1, 2, 3]))]
        more = tuple(ir.Part(*place) for place in places[1:])
        self.steps.append(ir.Recv(0, *places[0], 0, tag, not more and r.random() < 0.4, form, more))
        self.steps.append(ir.Send(0, *places[0], 2, tag, form, more))

    def training(self) -> None:
        spec = self.spec()
        if spec is None:
            return
        shapes = {"x": spec.input_shape, "w": spec.weight_shape, "g": spec.output_shape}
        self.steps += [ir.ArrayRecv(0, name, shape, 0, 100 + n) for n, (name, shape) in enumerate(shapes.items())]
        some: list[ir.AnyStep] = [
            ir.ConvForward(0, spec, "x", "w", "y"),
            ir.ConvGradInput(0, spec, "g", "w", "dx"),
            ir.ConvGradWeight(0, spec, "x", "g", "dw"),
        ]
        self.steps += self.r.sample(some, self.r.randint(1, 3))
        self.steps.append(ir.ArrayFree(0, ("y", "dx", "dw")))


def composed(generator: random.Random) -> Program:
    composer = Composer(generator)
    kinds: list[Callable[[], None]] = [
        *(composer.conv, composer.conv, composer.conv, composer.pool, composer.maps, composer.copies, composer.messages),
        composer.training,
    ]
    for _ in range(generator.randint(1, 3)):
        generator.choice(kinds)()
    swapped = tuple(key for key in composer.weights if generator.random() < 0.1)
    return Program(
        1, 3, composer.batch, ("layer",), tuple(composer.buffers), tuple(composer.steps), composer.weights, swapped=swapped
    )


FUZZER = Fuzzer("tests.cluster.executor.fuzz_programs", try_one, make, seeds, prepare)
INPUTS = CORPUS / "programs"

if __name__ == "__main__":
    FUZZER.main()
