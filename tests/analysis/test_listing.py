"""A program as text: every step once, in order, with what it reads and writes."""

from __future__ import annotations

from fogconv.analysis.listing import listing
from fogconv.hardware.topology import Topology
from fogconv.ir import steps as ir
from fogconv.ir.geometry import Region, Span
from fogconv.ir.program import Program
from fogconv.lowering.lower import lower
from fogconv.planning.plan_options import PlanOptions
from fogconv.planning.planner import plan
from tests.chains import chain

TOPOLOGY = Topology.uniform(3, 10e9, 125e6, 1e-4)


def test_listing_shows_buffers_and_steps_in_order() -> None:
    box = Region(Span(0, 3), Span(2, 7), Span(0, 8))
    steps = (ir.Recv(0, 0, box, 0, 4), ir.Copy(1, 0, box, 1, accumulate=True), ir.Send(1, 1, box, 2, 5, "fp16"))
    program = Program(1, 3, 2, ("first", "second"), (ir.Buffer("x", box), ir.Buffer("y", box, (1, 0, 2, 0))), steps, {})
    assert listing(program).splitlines() == [
        "rank 1 of 3, batch 2: 3 steps, 2 buffers (0.0 MB), 0 weights (0.0 MB)",
        "",
        "buffers",
        "  b0  x  c0:3 h2:7 w0:8",
        "  b1  y  c0:3 h2:7 w0:8  margin 1 0 2 0",
        "",
        "steps",
        "  first   Recv  b0[c0:3 h2:7 w0:8]  from rank 0, tag 4",
        "  second  Copy  b0[c0:3 h2:7 w0:8] → b1[c0:3 h2:7 w0:8]  accumulate",
        "  second  Send  b1[c0:3 h2:7 w0:8]  to rank 2, tag 5, wire fp16",
    ]


def test_listing_has_a_line_for_every_step_of_a_lowered_plan() -> None:
    graph = chain(16, 32, 32, 16, residual=True)
    for scheme in ("rows", "depth"):
        for program in lower(graph, plan(graph, TOPOLOGY, PlanOptions(scheme=scheme))).programs:
            text = listing(program)
            assert len(text.partition("\nsteps\n")[2].splitlines()) == len(program.steps)
            assert all(f"tag {step.tag}" in text for step in program.steps if isinstance(step, ir.Send | ir.Recv))
