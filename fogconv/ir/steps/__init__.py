"""Steps: what a Program consists of. They name local buffers, weights by content hash, and regions in their tensors'
coordinates. A Recv waits for its message; a Send does not wait.
"""

from __future__ import annotations

from fogconv.ir.steps.array_steps import (
    ArrayFree,
    ArrayInput,
    ArrayOutput,
    ArrayRecv,
    ArraySend,
    ArrayStep,
    ConvForward,
    ConvGradInput,
    ConvGradWeight,
)
from fogconv.ir.steps.gather import Check, Gather, Piece, gathers
from fogconv.ir.steps.map_steps import (
    AcrossChannels,
    Activation,
    Add,
    Affine,
    Conv,
    Convert,
    Copy,
    Elementwise,
    Gate,
    GlobalPool,
    Interleave,
    MapStep,
    Normalize,
    Permute,
    Pool,
    Resample,
    Squares,
)
from fogconv.ir.steps.master_steps import Host, HostOutput, Input, Output
from fogconv.ir.steps.step import Buffer, Step
from fogconv.ir.steps.transfers import Part, Recv, Send
from fogconv.ir.steps.wire import (
    PIXEL_BYTES,
    PIXEL_PASSES,
    WIRE_BYTES,
    WIRE_PASSES,
    WIRES_OF_FP32,
    Pixels,
    Wire,
    copied_bytes,
    wire_of,
)

__all__ = [
    "PIXEL_BYTES",
    "PIXEL_PASSES",
    "WIRES_OF_FP32",
    "WIRE_BYTES",
    "WIRE_PASSES",
    "AcrossChannels",
    "Activation",
    "Add",
    "Affine",
    "AnyStep",
    "ArrayFree",
    "ArrayInput",
    "ArrayOutput",
    "ArrayRecv",
    "ArraySend",
    "ArrayStep",
    "Buffer",
    "Check",
    "Conv",
    "ConvForward",
    "ConvGradInput",
    "ConvGradWeight",
    "Convert",
    "Copy",
    "Elementwise",
    "Gate",
    "Gather",
    "GlobalPool",
    "Host",
    "HostOutput",
    "Input",
    "Interleave",
    "MapStep",
    "Normalize",
    "Output",
    "Part",
    "Permute",
    "Piece",
    "Pixels",
    "Pool",
    "Recv",
    "Resample",
    "Send",
    "Squares",
    "Step",
    "Wire",
    "copied_bytes",
    "gathers",
    "wire_of",
]

AnyStep = Input | Output | HostOutput | Send | Recv | Gather | Host | MapStep | ArrayStep
