"""Listing: a Program as readable text; one line per buffer, one per step.

conv1   Recv    b0[c0:3 h0:115 w0:224] from rank 0, tag 0
conv1   Conv    b0[c0:3 h0:115 w0:224] → b1[c0:64 h0:56 w0:112]  7×7 stride 2, 3→64, weight 1f0c…, relu
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec

from fogconv.ir.geometry import ConvSpec, PoolSpec, Region, Taps
from fogconv.ir.program import Program
from fogconv.ir.steps import Buffer, Gather, Part, Step

_READ: Mapping[str, tuple[str, ...]] = {
    "source": ("source_region", "region"),
    "gate": ("gate_region",),
    "residual": ("residual_region",),
    "mean": ("mean_region",),
    "squares": ("squares_region",),
}
_WRITTEN: Mapping[str, tuple[str, ...]] = {"target": ("target_region", "region")}
_NO_DETAIL = {"layer", "source", "target", "gate", "residual", "mean", "squares", "sources", "targets", "region"}
_NO_DETAIL |= {"more", "pieces", "code"}


def listing(program: Program) -> str:
    """The whole program: a heading, its buffers, its steps. Regions are c(hannels), h (rows) and w (columns), from:to."""
    weights = sum(map(program.weight_bytes, program.weights))
    maps = sum(buffer.precision.bytes * program.batch * buffer.region.elements for buffer in program.buffers)
    lines = [
        f"rank {program.rank} of {program.ranks}, batch {program.batch}: {len(program.steps)} steps, "
        f"{len(program.buffers)} buffers ({_megabytes(maps)}), {len(program.weights)} weights ({_megabytes(weights)})",
        "",
        "buffers",
        *_aligned(_buffer(number, buffer) for number, buffer in enumerate(program.buffers)),
        "",
        "steps",
        *_aligned(row for step in program.steps for row in _step(program, step)),
    ]
    return "\n".join(line.rstrip() for line in lines)


def _buffer(number: int, buffer: Buffer) -> tuple[str, ...]:
    margin = "" if not any(buffer.margin) else f"margin {' '.join(map(str, buffer.margin))}"
    precision = buffer.precision
    kept: str = "" if precision.element == "fp32" else precision.element
    if precision.quantized:
        kept += f" scale {precision.scale:.3g} zero {precision.zero}"
    return f"b{number}", buffer.tensor, _box(buffer.region), "  ".join(filter(None, (margin, kept)))


def _step(program: Program, step: Step) -> Iterator[tuple[str, ...]]:
    name = program.layers[step.layer]
    if isinstance(step, Gather):
        yield name, "Gather", f"{len(step.pieces)} pieces, patience {step.patience_s:g} s"
        for piece in step.pieces:
            yield name, "  piece", f"{_places(piece.recv)}  {_details(piece.recv)}{', checked' if piece.check else ''}"
        if step.code is not None:
            yield name, "  code", f"{_places(step.code)}  {_details(step.code)}"
        return
    yield name, type(step).__name__, f"{_places(step)}  {_details(step)}"


def _places(step: Step) -> str:
    """The places that the step reads → those that it writes."""
    reads, writes = list(_boxes(step, _READ)), list(_boxes(step, _WRITTEN))
    more = [f"b{part.buffer}[{_box(part.region)}]" for part in getattr(step, "more", ()) if isinstance(part, Part)]
    (reads if reads else writes).extend(more)
    return " → ".join(" + ".join(side) for side in (reads, writes) if side)


def _boxes(step: Step, sides: Mapping[str, tuple[str, ...]]) -> Iterator[str]:
    for field, regions in sides.items():
        several = getattr(step, f"{field}s", ())
        for buffer, region in zip(several, getattr(step, f"{field}_regions", ()), strict=False):
            yield f"b{buffer}[{_box(region)}]"
        buffer = getattr(step, field, None)
        if isinstance(buffer, int):
            region = next((found for name in regions if (found := getattr(step, name, None)) is not None), None)
            yield f"b{buffer}" + ("" if region is None else f"[{_box(region)}]")


def _details(step: Step) -> str:
    """All other fields that differ from their defaults."""
    words = []
    for field in msgspec.structs.fields(step):
        value = getattr(step, field.name)
        if field.name in _NO_DETAIL or field.name.endswith(("_region", "_regions")) or value == field.default:
            continue
        words.append(_detail(field.name, value))
    return ", ".join(word for word in words if word)


def _detail(name: str, value: Any) -> str:
    match name, value:
        case _, None:
            return ""
        case _, ConvSpec() | PoolSpec():
            return _spec(value)
        case _, Taps():
            return f"{value.size}→{len(value.starts)} {name}" + (f" of {value.most}" if value.most > 1 else "")
        case "bias", str():
            return "bias"
        case (("weight" | "scale" | "scales" | "shift" | "signs" | "constant"), str()):
            return f"{name} {value[:8]}…"
        case "to", _:
            return f"to rank {value}"
        case "origin", _:
            return f"from rank {value}"
        case "activation", _:
            return str(value)
        case _, True:
            return name
        case _, tuple() if len(value) > 4:
            return f"{name} {len(value)} numbers"
    return f"{name} {value}"


def _spec(spec: ConvSpec | PoolSpec) -> str:
    words = f"{spec.kernel[0]}×{spec.kernel[1]}"
    words += f" stride {spec.stride[0]}" if spec.stride != (1, 1) else ""
    sides = spec.padding[:1] if len(set(spec.padding)) == 1 else spec.padding
    words += f" padding {' '.join(map(str, sides))}" if any(sides) else ""
    if isinstance(spec, ConvSpec):
        words += f", {spec.in_channels}→{spec.out_channels}" + (f" in {spec.groups} groups" if spec.groups > 1 else "")
    return words


def _box(region: Region) -> str:
    spans = zip("chw", (region.channels, region.rows, region.columns), strict=True)
    return " ".join(f"{letter}{span.start}:{span.stop}" for letter, span in spans)


def _aligned(rows: Iterable[tuple[str, ...]]) -> list[str]:
    found = list(rows)
    widths = [max(len(row[i]) for row in found) for i in range(len(found[0]) - 1)] if found else []
    return ["  " + "  ".join([*(cell.ljust(w) for cell, w in zip(row, widths, strict=False)), row[-1]]) for row in found]


def _product(shape: tuple[int, ...]) -> int:
    total = 1
    for size in shape:
        total *= size
    return total


def _megabytes(n_bytes: int) -> str:
    return f"{n_bytes / 1e6:.1f} MB"
