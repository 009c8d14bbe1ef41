"""The loops and tiles that are priced: the kernels for aarch64, each as the largest tile that the tiling makes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial

from bench.neon.machine_code import Emit
from fogconv.ir.geometry import BLOCK
from fogconv.ir.precision.elements import Element
from fogconv.kernels.codegen.isa import NEON
from fogconv.kernels.codegen.microkernel import emit_tile
from fogconv.kernels.codegen.tile.fields import Field, Flag
from fogconv.kernels.codegen.tile.tile import make_tile
from fogconv.kernels.conv import depthwise, linear
from fogconv.kernels.conv.half_tile import LANES, PIXELS, HalfTile, emit_half_tile
from fogconv.kernels.conv.tiling import largest_tile
from fogconv.kernels.conv.winograd_matrices import Form
from fogconv.kernels.conv.winograd_transforms import emit_input, emit_output
from fogconv.kernels.quantized.arithmetic import WORD, Dots, Product, Result, tile_isa

FIELDS_AT, ARRAYS_AT = 1 << 32, 1 << 33
FAR = 1 << 16
"""Bytes from one row or block to the next: any number will do."""

BOARDS = ("cortex-a72", "cortex-a76")
"""Raspberry Pi 4 and 5, as numba names them."""

VECTORS = 4
"""Vectors of output channels per tile: a block of 16."""


@dataclass(frozen=True, slots=True)
class Loop:
    """Code to price: a whole call with these arguments and numbers in memory, or only its hot loop."""

    name: str
    emit: Emit
    arguments: tuple[int, ...]
    memory: Mapping[int, int]
    whole: bool = True
    boards: tuple[str, ...] = BOARDS
    """Those whose CPUs have the instructions."""


def loops() -> Iterator[Loop]:
    """All of them."""
    for depth in (64, 512):
        yield direct(f"hot loop, K = {depth}", depth, whole=False)
    for depth in (16, 24, 64, 256, 512):
        yield direct(f"1×1, K = {depth}", depth)
    yield _first("first 7×7", (7, 7), 2)
    yield _first("first 3×3", (3, 3), 2)
    for stride in (1, 2):
        yield _depthwise(f"depthwise 3×3, stride {stride}", stride)
    yield _linear()
    for by in (Product.SDOT, Product.SMULL):
        yield _bytes(f"int8 by {by}, hot loop, K = 256", by, 256, whole=False)
        for depth in (64, 256):
            yield _bytes(f"int8 by {by}, 1×1, K = {depth}", by, depth)
    yield _halves("fp16, hot loop, K = 256", 256, whole=False)
    for depth in (64, 256):
        yield _halves(f"fp16, 1×1, K = {depth}", depth)


def direct(name: str, depth: int, whole: bool = True) -> Loop:
    """A 1×1 convolution with ReLU6."""
    tile = make_tile(NEON, 1, largest_tile(NEON, VECTORS, depth), VECTORS, BLOCK, NEON.vector_length)
    full, rest = divmod(depth, BLOCK)
    fields = {
        Field.FULL_BLOCKS: full,
        Field.RUN_ROUNDS: BLOCK // 4,
        Field.PARTS: int(rest > 0),
        Field.PART_LANES: rest,
        Field.FLAGS: Flag.FLOOR | Flag.CEILING,
    }
    return Loop(name, partial(_call_tile, tile), *_call(7, fields), whole)


def _bytes(name: str, by: Product, depth: int, whole: bool = True) -> Loop:
    """A 1×1 convolution on bytes, requantised."""
    isa, words = tile_isa(NEON, by), depth // WORD
    tile = make_tile(isa, 1, largest_tile(isa, VECTORS, words), VECTORS, BLOCK // WORD, isa.vector_length)
    fields = {Field.FULL_BLOCKS: depth // BLOCK, Field.RUN_ROUNDS: 1}
    boards = ("cortex-a76",) if by is Product.SDOT else ("cortex-a72",)
    return Loop(name, partial(_call_bytes, tile, Dots(by, Result.BYTES)), *_call(7, fields), whole, boards)


def _halves(name: str, depth: int, whole: bool = True) -> Loop:
    """A 1×1 convolution from fp16 to fp16, with ReLU6."""
    tile = HalfTile(1, PIXELS, BLOCK, "fp16")
    fields = {
        Field.FULL_BLOCKS: depth // BLOCK,
        Field.RUN_ROUNDS: BLOCK // LANES,
        Field.FLAGS: Flag.FLOOR | Flag.CEILING,
    }
    return Loop(name, partial(_call_halves, tile), *_call(7, fields), whole, ("cortex-a76",))


def _first(name: str, kernel: tuple[int, int], stride: int) -> Loop:
    """A layer of 3 input channels, narrow."""
    channels, lanes = 3, 4
    few, depth = (channels, kernel[1]), channels * kernel[0] * kernel[1]
    tile = make_tile(NEON, 1, largest_tile(NEON, VECTORS, depth), VECTORS, lanes * stride, NEON.vector_length, few)
    fields = {
        Field.PARTS: 1,
        Field.PART_LANES: channels,
        Field.KERNEL_ROWS: kernel[0],
        Field.TAPS: kernel[1],
        Field.FLAGS: Flag.FLOOR | Flag.CEILING,
    }
    return Loop(name, partial(_call_tile, tile), *_call(7, fields))


def _depthwise(name: str, stride: int) -> Loop:
    """A block of 16 channels with ReLU6."""
    shape, lanes = depthwise.largest_tile(NEON), depthwise.vector_lanes(NEON)
    tile = depthwise.DepthTile(*shape, (3, 3), (stride, stride), (1, 1), 1, lanes, NEON.fused)
    return Loop(name, partial(_call_depthwise, tile), *_call(6, {Field.FLAGS: Flag.FLOOR | Flag.CEILING}))


def _linear() -> Loop:
    """One block of 16 outputs of 256 inputs, for one image."""
    blocks, rows, columns = 16, 1, 1
    arguments = (ARRAYS_AT, ARRAYS_AT + FAR, FAR, FAR, FAR, blocks, rows, columns, ARRAYS_AT + 2 * FAR)
    emit = partial(linear.emit_dot, images=1, registers=BLOCK // NEON.vector_length)
    return Loop("linear", emit, arguments, {})


@dataclass(frozen=True, slots=True)
class Transform:
    """One of Winograd's transforms of one tile and block of 16 channels, with so many elements."""

    code: Loop
    elements: int


def transforms(element: Element = "fp32") -> Iterator[Transform]:
    """Those of 3×3 kernels from and to maps of an element, outputs with ReLU. In the record are those of fp32."""
    for m in (2, 4, 6):
        form, far, all_there = Form((m, m), (3, 3)), 1 << 14, 99
        into = (ARRAYS_AT, FAR, all_there, all_there, ARRAYS_AT + FAR, far)
        arrays = [ARRAYS_AT + FAR * (2 + number) for number in range(3)]
        back = (ARRAYS_AT, far, *arrays[:2], FAR, arrays[2], FAR, all_there, all_there, 2, ARRAYS_AT + FAR)
        for name, emit, arguments in (("input", emit_input, into), ("output", emit_output, back)):
            code = Loop(f"F({m}×{m}, 3×3), {name}", partial(emit, form=form, isa=NEON, element=element), arguments, {})
            yield Transform(code, form.elements)


def _call_tile(tile: object, builder: object, *addresses: object) -> None:
    emit_tile(builder, tile, *addresses)  # type: ignore[arg-type]


def _call_bytes(tile: object, dots: Dots, builder: object, *addresses: object) -> None:
    emit_tile(builder, tile, *addresses, arithmetic=dots)  # type: ignore[arg-type, misc]


def _call_halves(tile: HalfTile, builder: object, *addresses: object) -> None:
    emit_half_tile(builder, tile, *addresses)


def _call_depthwise(tile: depthwise.DepthTile, builder: object, *addresses: object) -> None:
    depthwise.emit_tile(builder, tile, *addresses)  # type: ignore[call-arg]


def _call(arrays: int, given: Mapping[Field, int]) -> tuple[tuple[int, ...], dict[int, int]]:
    """The arguments and the memory of a tile's call: its fields, then addresses of arrays."""
    fields = dict.fromkeys(Field, 0) | {
        Field.BLOCK_STRIDE: FAR,
        Field.KERNEL_ROWS: 1,
        Field.KERNEL_ROW_STRIDE: FAR,
        Field.RUNS: 1,
        Field.TAPS: 1,
        Field.ROW_STRIDE: FAR,
        Field.OUT_BLOCK_STRIDE: FAR,
        Field.OUT_ROW_STRIDE: FAR,
        Field.RESIDUAL_BLOCK_STRIDE: FAR,
        Field.RESIDUAL_ROW_STRIDE: FAR,
    }
    fields |= given
    memory = {FIELDS_AT + 8 * field: int(value) for field, value in fields.items()}
    return (FIELDS_AT, *(ARRAYS_AT + FAR * number for number in range(arrays - 1))), memory
