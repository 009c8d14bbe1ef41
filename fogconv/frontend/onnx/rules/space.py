"""Operators that change rows and columns: resize, transposed conv, slices with steps, padding, depth to space and back."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from fogconv.errors import GeometryError, ModelError, quoted
from fogconv.frontend.building.values import Padded, Ref, Value
from fogconv.frontend.fusion import AnyArray
from fogconv.frontend.onnx.rules import channels, pooling
from fogconv.frontend.onnx.rules.conv import as_rows, four, two
from fogconv.frontend.onnx.translate import Node, Translator
from fogconv.frontend.space import phases, resampling
from fogconv.ir.geometry import Taps

FLOAT = np.float32
"""ONNX Runtime computes positions in fp32; the nearest input depends on it."""
TIE = 1e-6
"""ONNX Runtime treats a position so near to the middle of two inputs as the middle."""


def resize(t: Translator, node: Node) -> Value | None:
    """Over rows and columns, as ONNX Runtime computes it. Without antialiasing."""
    source, shape = t.as_map(node.input(0)), t.shape(node.outputs[0])
    mode = node.get("mode", "nearest")
    if source is None or shape is None or mode not in ("nearest", "linear", "cubic") or node.get("antialias", 0):
        return None
    read = t.tensors[source]
    scales, regions = _scales(t, node, read.shape, shape), _regions(t, node)
    if len(shape) != 4 or shape[:2] != read.shape[:2] or scales is None or regions is None:
        return None
    _check_size(t, node, read.shape, shape)
    crops = node.get("coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize"
    if not crops and tuple(shape) == read.shape:  # ONNX Runtime copies, whatever the scales are
        return t.resample(node.name, source, resampling.identity(read.height), resampling.identity(read.width), 0.0)
    if crops and (regions[:2] != [(0.0, 1.0)] * 2 or scales[:2] != [1.0, 1.0]):
        return None
    taps = [_resized(node, mode, *sizes) for sizes in zip(read.shape[2:], shape[2:], scales[2:], regions[2:], strict=True)]
    if any(each is None for each in taps):
        return None
    rows, columns = (each for each in taps if each is not None)
    return t.resample(node.name, source, rows, columns, float(node.get("extrapolation_value", 0.0)))


def _check_size(t: Translator, node: Node, read: Sequence[int], shape: Sequence[int]) -> None:
    """Raises ModelError where ONNX Runtime, which multiplies in fp32, makes another size than ONNX's shape inference says:
    every shape after it would be wrong."""
    given = t.const(node.input(1 if _is_old(node) else 2))
    if (
        given is None
        or len(given) != len(read)
        or node.get("coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize"
    ):
        return
    made = tuple(int(FLOAT(size) * FLOAT(scale)) for size, scale in zip(read, given, strict=True))
    if made != tuple(shape):
        raise ModelError(
            f"node {quoted(node.name)} (Resize) makes {made} in ONNX Runtime and {tuple(shape)} by ONNX's shape inference; "
            "give it sizes instead of scales"
        )


def _scales(t: Translator, node: Node, whole: Sequence[int], shape: Sequence[int]) -> list[float] | None:
    """Of each of the four axes."""
    given = t.const(node.input(1 if _is_old(node) else 2))
    if node.op == "Upsample" and given is None:
        given = node.attributes.get("scales")
    over = [int(axis) % 4 for axis in node.get("axes", range(4))]
    scales = [1.0] * 4
    if given is not None and len(given):
        for axis, scale in zip(over, given, strict=True):
            scales[axis] = float(scale)
        return scales
    wanted = t.const(node.input(3))
    if wanted is None:
        return None
    ratios = [FLOAT(size) / FLOAT(whole[axis]) for axis, size in zip(over, wanted, strict=True)]
    policy = node.get("keep_aspect_ratio_policy", "stretch")
    if policy != "stretch":
        ratios = [(min if policy == "not_larger" else max)(ratios)] * len(ratios)
    for axis, ratio in zip(over, ratios, strict=True):
        scales[axis] = float(ratio)
    return scales


def _is_old(node: Node) -> bool:
    """Until opset 10 there was no region, and scales came second."""
    return node.op == "Upsample" or (node.op == "Resize" and len(node.inputs) == 2)


def _regions(t: Translator, node: Node) -> list[tuple[float, float]] | None:
    """(start, end) of each axis in shares of the input: only with tf_crop_and_resize."""
    if node.get("coordinate_transformation_mode", "half_pixel") != "tf_crop_and_resize":
        return [(0.0, 1.0)] * 4
    region = t.const(node.input(1))
    over = [int(axis) % 4 for axis in node.get("axes", range(4))]
    if region is None or len(region) != 2 * len(over):
        return None
    found = [(0.0, 1.0)] * 4
    for number, axis in enumerate(over):
        found[axis] = (float(region[number]), float(region[len(over) + number]))
    return found


def _resized(node: Node, mode: str, size: int, out: int, scale: float, region: tuple[float, float]) -> Taps | None:
    old = _is_old(node)
    where = "asymmetric" if old else node.get("coordinate_transformation_mode", "half_pixel")
    at = _positions(where, size, out, scale, region)
    if at is None:
        return None
    outside = (at < 0) | (at > size - 1) if where == "tf_crop_and_resize" else np.zeros(out, bool)
    if mode == "linear":
        taps = resampling.linear(size, at)
    elif mode == "cubic":
        a, excludes = float(node.get("cubic_coeff_a", resampling.CUBIC)), bool(node.get("exclude_outside", 0))
        taps = resampling.cubic(size, at, a, exclude_outside=excludes)
    elif where == "half_pixel_symmetric":
        # ONNX Runtime rounds these positions in an order that was not found out: a pixel on an edge is another one there.
        return None
    else:
        rounding = "round_prefer_floor" if not old else "ceil" if scale < 1 else "floor"
        chosen = _NEAREST[node.get("nearest_mode", rounding)](at)
        taps = resampling.picked(size, np.clip(chosen, 0, size - 1).astype(int))
    return resampling.without(taps, outside.tolist()) if outside.any() else taps


_NEAREST: dict[str, Callable[[AnyArray], AnyArray]] = {
    "round_prefer_floor": lambda at: np.ceil(at.astype(np.float64) - (0.5 + TIE)),
    "round_prefer_ceil": lambda at: np.floor(at.astype(np.float64) + (0.5 + TIE)),
    "floor": np.floor,
    "ceil": np.ceil,
}


def _positions(where: str, size: int, out: int, scale: float, region: tuple[float, float]) -> AnyArray | None:
    """Where each output lies among the inputs, in fp32."""
    k, s, half = np.arange(out, dtype=FLOAT), FLOAT(scale), FLOAT(0.5)
    last, count = FLOAT(size - 1), FLOAT(max(out - 1, 1))
    if scale == 1.0 and out == size:
        return k  # whatever the mode: ONNX Runtime does not even crop then
    start, end = FLOAT(region[0]), FLOAT(region[1])
    found: AnyArray
    match where:
        case "half_pixel":
            found = (k + half) / s - half
        case "pytorch_half_pixel":
            found = (k + half) / s - half if out > 1 else k
        case "half_pixel_symmetric":
            # From the middle out, so that the middle itself is exact.
            found = FLOAT(size) / 2 + (k + half - FLOAT(out) / 2) / s - half
        case "asymmetric":
            found = k / s
        case "align_corners":
            found = k * last / count
        case "tf_half_pixel_for_nn":
            found = (k + half) / s
        case "tf_crop_and_resize":
            found = start * last + k * (end - start) * last / count if out > 1 else half * (start + end) * last + k
        case _:
            return None
    return found


def conv_transpose(t: Translator, node: Node) -> Value | None:
    weight, bias = t.const(node.input(1)), t.const(node.input(2))
    source = t.as_map(node.input(0), flat=True)
    if source is None or weight is None or weight.ndim not in (3, 4) or (node.input(2) and bias is None):
        return None
    weight = as_rows(weight)
    read = t.tensors[source]
    stride, dilation = two(node.get("strides", (1, 1))), two(node.get("dilations", (1, 1)))
    more = two(node.get("output_padding", (0, 0)), row=0)
    lengths = zip((read.height, read.width), stride, weight.shape[2:], dilation, more, strict=True)
    full = [step * (size - 1) + extra + (k - 1) * spread + 1 for size, step, k, spread, extra in lengths]
    before, size = _cut(node, full, [side * step for side, step in zip((read.height, read.width), stride, strict=True)])
    if min(size) < 1:
        return None
    try:
        return phases.conv_transpose(
            t,
            node.name,
            source,
            weight,
            bias,
            stride=stride,
            before=before,
            dilation=dilation,
            groups=int(node.get("group", 1)),
            size=size,
        )
    except GeometryError:
        return None


def _cut(node: Node, full: Sequence[int], same: Sequence[int]) -> tuple[tuple[int, int], tuple[int, int]]:
    """What is cut off at the start of rows and columns, and what is left of them: by ``output_shape``, ``auto_pad`` or
    ``pads``."""
    auto = node.get("auto_pad", "NOTSET")
    wanted = node.get("output_shape", same if auto in ("SAME_UPPER", "SAME_LOWER") else None)
    if wanted is None:
        top, left, bottom, right = (0, 0, 0, 0) if auto == "VALID" else four(node.get("pads", (0, 0, 0, 0)))
        return (int(top), int(left)), (int(full[0] - top - bottom), int(full[1] - left - right))
    height, width = two(wanted[-2:])
    spare = [max(0, full[0] - height), max(0, full[1] - width)]
    first = [total // 2 if auto == "SAME_UPPER" else total - total // 2 for total in spare]
    return (first[0], first[1]), (height, width)


def depth_to_space(t: Translator, node: Node) -> Value | None:
    source = t.as_map(node.input(0))
    if source is None:
        return None
    first = node.get("mode", "DCR") == "DCR"
    return phases.depth_to_space(t, node.name, source, int(node.get("blocksize", 1)), phases_first=first)


def space_to_depth(t: Translator, node: Node) -> Value | None:
    source, shape = t.as_map(node.input(0)), t.shape(node.outputs[0])
    factor = int(node.get("blocksize", 1))
    if source is None or shape is None:
        return None
    first = node.get("mode", "DCR") == "DCR"
    return phases.space_to_depth(t, node.name, source, factor, shape, phases_first=first)


def slice_(t: Translator, node: Node) -> Value | None:
    """Some of the channels, rows or columns; rows and columns with steps. Before opset 10 the limits were attributes."""
    value = channels.slice_(t, node)
    source, shape = t.as_map(node.input(0)) if value is None else None, t.shape(node.outputs[0])
    if value is not None or source is None or shape is None or 0 in shape:
        return value
    given = [node.attributes.get(name) for name in ("starts", "ends", "axes")] + [None]
    if node.input(1):
        given = [t.const(node.input(index)) for index in (1, 2, 3, 4)]
    starts, ends, axes, steps = given
    if starts is None or ends is None or any(node.input(at) and given[at - 1] is None for at in (3, 4)):
        return None
    read = t.tensors[source]
    ranges = [range(size) for size in read.shape]
    for number, axis in enumerate(range(len(starts)) if axes is None else axes):
        step = 1 if steps is None else int(steps[number])
        ranges[int(axis) % 4] = range(
            *slice(int(starts[number]), int(ends[number]), step).indices(read.shape[int(axis) % 4])
        )
    images, depth, rows, columns = ranges
    if images != range(t.batch) or depth.step != 1:
        return None
    whole = Ref(source, read.shape)
    cut = t.channels(node.name, whole, depth.start, len(depth), (t.batch, len(depth), read.height, read.width))
    return t.resample(node.name, cut.tensor, resampling.picked(read.height, rows), resampling.picked(read.width, columns))


def pad(t: Translator, node: Node) -> Value | None:
    """Of zeros before convs it becomes theirs, so does one of −∞ before max pools; every other is a layer."""
    given = node.attributes.get("pads")
    amounts = t.const(node.input(1)) if given is None else given
    value = t.const(node.input(2)) if node.input(2) else node.get("value", 0.0)
    axes = t.const(node.input(3)) if node.input(3) else range(len(amounts) // 2 if amounts is not None else 0)
    shape = t.shape(node.input(0))
    if amounts is None or value is None or axes is None or shape is None:
        return None
    if not any(int(amount) for amount in amounts):
        return t.ref(node.input(0))
    sides = [0] * (2 * len(shape))
    for number, axis in enumerate(axes):
        at = int(axis) % len(shape)
        sides[at], sides[len(shape) + at] = int(amounts[number]), int(amounts[len(amounts) // 2 + number])
    if len(shape) == 3:
        sides = [*sides[:2], 0, *sides[2:5], 0, sides[5]]
    source = t.as_map(node.input(0), flat=True) if len(sides) == 8 and not any(sides[:2] + sides[4:6]) else None
    if source is None:
        return None
    fill, mode = float(np.asarray(value).reshape(-1)[0]), node.get("mode", "constant")
    around = (sides[2], sides[6], sides[3], sides[7])
    if mode == "constant" and min(around) >= 0 and _merges(t, node, fill):
        return Padded(source, around)
    read = t.tensors[source]
    rows, columns = (
        resampling.padded(size, before, after, mode)
        for size, before, after in ((read.height, *around[:2]), (read.width, *around[2:]))
    )
    return None if rows is None or columns is None else t.resample(node.name, source, rows, columns, fill)


def _merges(t: Translator, node: Node, fill: float) -> bool:
    """Whether all that reads a padded map can pad it by itself."""
    padded = node.outputs[0]
    readers = t.readers.get(padded, [])
    takes = (
        reader.input(0) == padded and (pooling.takes(reader, fill) or (reader.op, fill) == ("Conv", 0.0))
        for reader in readers
    )
    return bool(readers) and all(takes) and padded not in t.model.outputs
