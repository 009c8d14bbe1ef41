"""The bench of aarch64 code: what a call executes, what it costs by llvm-mca, and that it costs no more than recorded."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.neon import llvm_mca
from bench.neon.__main__ import main
from bench.neon.figures import measure, read_record, recorded_cycles, versions
from bench.neon.llvm_mca import Mca
from bench.neon.loops import BOARDS, VECTORS, direct, transforms
from bench.neon.machine_code import AARCH64, VECTOR_ON_STACK, Target, assembly, fused
from bench.neon.trace import trace
from fogconv.errors import InputError
from fogconv.ir.geometry import BLOCK
from fogconv.ir.memory.algorithm import TRANSFORM_CYCLES
from fogconv.ir.precision.elements import Half
from fogconv.kernels.codegen.isa import NEON
from fogconv.kernels.conv.tiling import largest_tile

SUM = """
tile:
    ldr x8, [x0, #8]      // how often
    cbz x8, .LBB0_2
.LBB0_1:
    fmla v0.4s, v1.4s, v2.s[0]
    subs x8, x8, #1
    b.gt .LBB0_1
.LBB0_2:
    ret
"""


@given(st.integers(0, 9))
def test_a_trace_goes_through_a_loop_as_often_as_memory_says(rounds: int) -> None:
    assert fused(trace(SUM.splitlines(), [64], {72: rounds})) == rounds


def test_a_jump_on_an_unknown_number_is_refused() -> None:
    with pytest.raises(ValueError, match="can't follow cbz x8"):
        trace(SUM.splitlines(), [64], {})


@settings(max_examples=10)
@given(st.integers(1, 600))
def test_a_call_executes_all_products_and_no_more(depth: int) -> None:
    loop = direct("1×1", depth)
    lines = assembly(Target(AARCH64, "cortex-a76"), loop.emit, len(loop.arguments))
    done = trace(lines, loop.arguments, loop.memory)
    assert fused(done) == depth * VECTORS * largest_tile(NEON, VECTORS, depth)


def test_the_record_has_no_spill_in_a_hot_loop_and_every_figure_is_above_its_bound() -> None:
    loops = read_record()["loops"]
    assert not [loop for loop in loops if "hot loop" in loop["name"] and loop["spills"]]
    bounds = {"cortex-a72": 1.0, "neoverse-n1": 0.5, "cortex-a76": 0.5}
    assert {loop["cpu"] for loop in loops} >= {"cortex-a72", "neoverse-n1"}
    assert not [loop for loop in loops if loop["cycles_per_fma"] < bounds[loop["cpu"]]]


def recorded_mca() -> Mca | None:
    """The llvm-mca with which the figures were recorded, where it is on this machine."""
    try:
        mca = llvm_mca.find()
    except InputError:
        return None
    return mca if versions(mca) == read_record()["versions"] else None


@pytest.mark.skipif(recorded_mca() is None, reason="needs the recorded versions: tools/setup_arm64.sh, constraints.txt")
def test_no_loop_takes_more_cycles_or_spills_than_recorded() -> None:
    mca = recorded_mca()
    assert mca is not None
    figures, record = measure(mca), read_record()
    cycles, before = recorded_cycles(figures), recorded_cycles(record)
    assert cycles.keys() == before.keys(), "python -m bench.neon --record"
    assert {key: value for key, value in cycles.items() if value > before[key]} == {}
    for kind in ("loops", "transforms"):
        spills = {(one["name"], one["cpu"]): one["spills"] for one in record[kind]}
        assert not [one for one in figures[kind] if one["spills"] > spills[one["name"], one["cpu"]]]


@pytest.mark.parametrize("m", [2, 4, 6])
def test_the_rule_prices_transforms_as_the_model_does(m: int) -> None:
    # The rule counts in cycles of 16 products; a Cortex-A72 multiplies 4 floats per cycle, a Neoverse-N1 8.
    cycles = recorded_cycles(read_record())
    for name, priced in zip(("input", "output"), TRANSFORM_CYCLES[4][m], strict=True):
        transform = f"F({m}×{m}, 3×3), {name}"
        mean = (cycles[transform, "cortex-a72"] / 4 + cycles[transform, "neoverse-n1"] / 2) / 2
        assert priced == pytest.approx(mean, rel=0.05)


@pytest.mark.parametrize("m", [2, 4, 6])
@pytest.mark.parametrize("cpu", BOARDS)
@pytest.mark.parametrize(("half", "widen", "narrow"), [("fp16", "fcvtl", "fcvtn"), ("bf16", "shll", "ushr")])
def test_winograds_transforms_widen_and_narrow_each_vector_once(
    m: int, cpu: str, half: Half, widen: str, narrow: str
) -> None:
    """Of 16 bits, by one instruction (bf16 is rounded by more), with about as many spills as those of fp32."""
    vectors = BLOCK // NEON.vector_length
    for number, (name, values) in enumerate((((widen, (m + 2) ** 2)), (narrow, m**2))):
        found = {}
        for element in ("fp32", half):
            tile = [each for each in transforms(element) if each.elements == (m + 2) ** 2][number].code
            lines = assembly(Target(AARCH64, cpu), tile.emit, len(tile.arguments))
            found[element] = trace(lines, tile.arguments, tile.memory)
        assert sum(line.split()[0] == name for line in found[half]) == vectors * values
        assert not any(line.split()[0] == name for line in found["fp32"])
        spills = [sum(bool(VECTOR_ON_STACK.search(line)) for line in lines) for lines in found.values()]
        assert spills[1] <= spills[0] + 4 * vectors


def test_a_missing_llvm_mca_is_a_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("LLVM_MCA", raising=False)
    monkeypatch.setattr(llvm_mca, "UNPACKED", tmp_path / "llvm-mca")
    assert main([]) == 2
    assert "bench.neon: llvm-mca is missing: install" in capsys.readouterr().err
