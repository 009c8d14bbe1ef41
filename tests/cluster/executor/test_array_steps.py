"""The steps on plain arrays, on one rank: against float64, and what they refuse."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fogconv.cluster.executor.array_steps import Arrays
from fogconv.cluster.executor.interface import Run
from fogconv.errors import ClusterError, KernelError, WireError
from fogconv.ir import steps as ir
from fogconv.ir.geometry import ConvSpec
from fogconv.ir.memory.footprint import footprint
from fogconv.ir.program import Program, decode, encode
from fogconv.kernels import reference


class Post:
    """A mailbox that keeps what is sent and gives what was put into it."""

    def __init__(self) -> None:
        self.sent: dict[tuple[int, int], Any] = {}
        self.waiting: dict[tuple[int, int], Any] = {}

    def send(self, to: int, tag: int, payload: Any) -> None:
        self.sent[to, tag] = payload

    def proceed(self) -> None: ...

    def open(self, messages: Any) -> None: ...

    def room(self, nbytes: int) -> memoryview | None:
        return None

    def receive(self, origin: int, tag: int) -> Any:
        return self.waiting[origin, tag]


def do(arrays: Arrays, *steps: ir.ArrayStep, inputs: tuple[Any, ...] = (), post: Post | None = None) -> Run:
    run = Run(post or Post(), inputs)
    for step in steps:
        arrays.do(step, run, 1)
    return run


@st.composite
def specs(draw: st.DrawFn) -> ConvSpec:
    groups = draw(st.sampled_from([1, 1, 2]))
    c, f = (groups * draw(st.integers(1, 20)) for _ in range(2))
    kernel = draw(st.sampled_from([(1, 1), (3, 3), (3, 2)]))
    stride = draw(st.sampled_from([(1, 1), (1, 1), (2, 2)]))
    dilation = draw(st.sampled_from([(1, 1), (1, 1), (2, 1)]))
    padding = tuple(draw(st.integers(0, 3)) for _ in range(4))
    height, width = (draw(st.integers(5, 9)) for _ in range(2))
    return ConvSpec(c, f, height, width, kernel, stride, padding, dilation, groups, draw(st.integers(1, 2)))  # type: ignore[arg-type]


@settings(max_examples=12, deadline=None)
@given(spec=specs(), seed=st.integers(0, 999))
def test_a_conv_and_its_gradients_are_those_of_the_reference(spec: ConvSpec, seed: int) -> None:
    """Whether grad_input comes from the forward kernels (stride 1, padding within the kernel's reach) or its own."""
    random = np.random.default_rng(seed)
    x, w, g = (random.normal(size=s).astype(np.float32) for s in (spec.input_shape, spec.weight_shape, spec.output_shape))
    run = do(
        Arrays(),
        *(ir.ArrayInput(0, index, name) for index, name in enumerate("xwg")),
        ir.ConvForward(0, spec, "x", "w", "y"),
        ir.ConvGradInput(0, spec, "g", "w", "gx"),
        ir.ConvGradWeight(0, spec, "x", "g", "gw"),
        *(ir.ArrayOutput(0, name, index) for index, name in enumerate(("y", "gx", "gw"))),
        inputs=(x, w, g),
    )
    expected = (
        reference.conv2d(x, w, None, spec),
        reference.conv2d_grad_input(g, w, spec),
        reference.conv2d_grad_weight(x, g, spec),
    )
    for index, value in enumerate(expected):
        assert run.outputs[index].shape == value.shape
        assert np.abs(run.outputs[index] - value).max() <= 1e-5 * np.abs(value).max() + 1e-6


SPEC = ConvSpec(4, 5, 6, 6, (3, 3), padding=(1, 1, 1, 1))


def test_other_weights_of_the_same_name_are_packed_again() -> None:
    arrays = Arrays()
    x = np.ones(SPEC.input_shape, np.float32)
    results = []
    for factor in (1, 2):
        weight = np.full(SPEC.weight_shape, factor, np.float32)
        run = do(
            arrays,
            ir.ArrayInput(0, 0, "x"),
            ir.ArrayInput(0, 1, "w"),
            ir.ConvForward(0, SPEC, "x", "w", "y"),
            ir.ArrayOutput(0, "y", 0),
            inputs=(x, weight),
        )
        results.append(run.outputs[0].copy())
    np.testing.assert_allclose(results[1], 2 * results[0], rtol=1e-5)


def test_arrays_travel_stay_and_are_forgotten() -> None:
    post, arrays = Post(), Arrays()
    post.waiting[0, 7] = np.arange(6, dtype=np.float32).view(np.uint8)
    do(arrays, ir.ArrayRecv(0, "x", (2, 3), 0, 7), post=post)
    run = do(arrays, ir.ArrayOutput(0, "x", 0))
    np.testing.assert_array_equal(run.outputs[0], [[0, 1, 2], [3, 4, 5]])
    with pytest.raises(ClusterError, match="has no array x"):
        do(arrays, ir.ArraySend(0, "x", 0, 1), post=post)
    do(
        arrays,
        ir.ArrayInput(0, 0, "x"),
        ir.ArrayInput(0, 0, "z"),
        ir.ArraySend(0, "x", 3, 9),
        ir.ArrayFree(0, ("z",)),
        inputs=(np.ones(2, np.float32),),
        post=post,
    )
    assert post.sent[3, 9].nbytes == 8
    with pytest.raises(ClusterError, match="has no array z"):
        do(arrays, ir.ArrayOutput(0, "z", 0))


def test_an_array_of_another_size_than_announced_is_refused() -> None:
    post = Post()
    post.waiting[0, 1] = np.zeros(8, np.uint8)
    with pytest.raises(WireError, match="was received as 8 bytes"):
        do(Arrays(), ir.ArrayRecv(0, "x", (3,), 0, 1), post=post)


def test_the_steps_travel_as_msgpack_and_count_as_memory() -> None:
    steps = (
        ir.ArrayRecv(0, "x", SPEC.input_shape, 0, 1),
        ir.ArrayRecv(0, "w", SPEC.weight_shape, 0, 2),
        ir.ConvForward(0, SPEC, "x", "w", "y"),
        ir.ArraySend(0, "y", 0, 3),
        ir.ArrayFree(0, ("x",)),
    )
    program = Program(1, 2, 1, ("layer",), (), steps, {}, "layer:1")
    assert decode(encode(program)) == program
    assert program.peers == {0}
    assert footprint(program).total > 4 * (2 * SPEC.input_elements + 2 * SPEC.weight_elements + SPEC.output_elements)


@pytest.mark.parametrize("name", ["x", "w", "g"])
@pytest.mark.parametrize("shape", [(2,), (1, 2, 3, 4), (4, 3, 2, 1, 1)], ids=str)
def test_an_array_of_another_shape_than_a_step_needs_is_named(name: str, shape: tuple[int, ...]) -> None:
    """A master's program decides which arrays meet, and a worker's log is for its bugs."""
    spec = ConvSpec(3, 5, 6, 6, (3, 3), padding=(1, 1, 1, 1))
    shapes = {"x": spec.input_shape, "w": spec.weight_shape, "g": spec.output_shape} | {name: shape}
    arrays = Arrays()
    given = tuple(ir.ArrayInput(0, n, each) for n, each in enumerate(shapes))
    do(arrays, *given, inputs=tuple(np.ones(each, np.float32) for each in shapes.values()))
    for step in (
        ir.ConvForward(0, spec, "x", "w", "y"),
        ir.ConvGradInput(0, spec, "g", "w", "dx"),
        ir.ConvGradWeight(0, spec, "x", "g", "dw"),
    ):
        if name in (getattr(step, "x", ""), getattr(step, "weight", ""), getattr(step, "grad_out", "")):
            with pytest.raises((ClusterError, KernelError), match=r"shape|must be float32"):
                do(arrays, step)
