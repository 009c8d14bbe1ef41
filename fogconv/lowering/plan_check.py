"""Plan check: a plan that was kept in a file may have been edited, damaged, or made for another model.

This is the only check of what a plan computes: every part is inside its tensor and belongs to an existing rank, and sums
add up to the whole, with no piece missing or counted twice.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from fogconv.errors import PlannerError
from fogconv.ir.geometry import BLOCK, Region, Span, subtract
from fogconv.ir.graph import LayerGraph
from fogconv.ir.layers import Conv, Host, Layer
from fogconv.ir.layout import MASTER, Layout
from fogconv.ir.plan import Placement, Plan
from fogconv.ir.shard import Work

MOST_RANKS = 1025
"""A master and 1,024 workers: larger clusters are not tested."""


def check_fits(plan: Plan, graph: LayerGraph) -> None:
    """Raises PlannerError, or GeometryError for an impossible shard, unless the plan's programs compute the graph."""
    if plan.graph != graph.name or len(plan.placements) != len(graph.layers):
        raise PlannerError(
            f"the plan is for {plan.graph} with {len(plan.placements)} layers, but the model is {graph.name} with "
            f"{len(graph.layers)}; plan again with `fogconv plan`"
        )
    if not 1 <= plan.ranks <= MOST_RANKS:
        raise PlannerError(f"the plan is for {plan.ranks} ranks; a cluster has 1 to {MOST_RANKS}")
    for layer, placement in zip(graph.layers, plan.placements, strict=True):
        try:
            _placement(graph, layer, placement, plan.ranks)
        except _Misfit as misfit:
            raise PlannerError(f"the plan does not fit the model: {layer.name}: {misfit}; make it again") from None
    _swaps(graph, plan)


class _Misfit(Exception):
    """The error of a placement, as text."""


def _require(condition: bool, otherwise: str) -> None:
    if not condition:
        raise _Misfit(otherwise)


def _placement(graph: LayerGraph, layer: Layer, placement: Placement, ranks: int) -> None:
    if layer.relabels:
        _require(not placement.via and placement.target is None, "nothing is computed, so nothing can be sent")
        return
    _require(bool(placement.work), "no rank computes it")
    if isinstance(layer, Host):
        alone = len(placement.work) == 1 and placement.work[0].rank == MASTER and not placement.work[0].depth
        _require(alone, "only the master can run it, and whole")
    for tensor, layout in placement.via:
        _require(tensor in layer.reads, f"it does not read tensor {tensor}")
        _layout(layout, graph.tensors[tensor].region, ranks)
    if isinstance(layer, Host):
        _require(placement.target is None, "its results are with the master, and can't have a target")
        return
    whole = graph.tensors[layer.target].region
    if placement.target is not None:
        _layout(placement.target, whole, ranks)
    for work in placement.work:
        _work(layer, work, whole, ranks, graph)
    summed = {layer.is_partial(work) for work in placement.work}
    _require(len(summed) == 1, "a part of it is to be summed, and another is not")
    if True in summed:
        _require(placement.target is not None, "its sum has no target")
        _sums(layer, placement.work, whole, graph)
    _guard(layer, placement, ranks)


def _swaps(graph: LayerGraph, plan: Plan) -> None:
    try:
        _require(
            len({(s.layer, s.rank) for s in plan.swaps}) == len(plan.swaps), "a rank swaps the weights of a layer twice"
        )
        for swap in plan.swaps:
            _require(0 <= swap.layer < len(graph.layers), f"there is no layer {swap.layer} whose weights to swap")
            layer, placement = graph.layers[swap.layer], plan.placements[swap.layer]
            _require(isinstance(layer, Conv), f"{layer.name} has no weights to swap")
            assert isinstance(layer, Conv)
            _require(layer.spec.groups == 1, f"the weights of {layer.name} are in groups, which are not swapped")
            _require(placement.guard is None, f"the weights of {layer.name}, which is guarded, can't be swapped")
            works = [work for work in placement.work if work.rank == swap.rank]
            _require(bool(works), f"rank {swap.rank} has no part of {layer.name} whose weights to swap")
            for work in works:
                _slices(layer, swap.channels, work.output.channels)
    except _Misfit as misfit:
        raise PlannerError(f"the plan does not fit the model: {misfit}; make it again") from None


def _slices(layer: Conv, slices: Sequence[Span], whole: Span) -> None:
    """Check that slices can be computed on their own: they are in order, and begin and end between two blocks."""
    at = whole.start
    for span in slices:
        _require(bool(span) and at <= span.start and span.stop <= whole.stop, f"{layer.name} has no channels {span} to swap")
        cut = [end - whole.start for end in (span.start, span.stop) if end != whole.stop]
        _require(not any(end % BLOCK for end in cut), f"the channels {span} of {layer.name} cut a block of {BLOCK}")
        at = span.stop


def _layout(layout: Layout, whole: Region, ranks: int) -> None:
    _require(layout.ranks == ranks, f"a layout is for {layout.ranks} ranks, not for {ranks}")
    _require(not layout.partial, "a layout is left to be summed")
    for rank, boxes in enumerate(layout.regions):
        _inside(boxes, whole, rank)
        for number, box in enumerate(boxes):
            _require(not any(box & other for other in boxes[:number]), f"rank {rank} holds a part of {box} twice")


def _inside(boxes: Iterable[Region], whole: Region, rank: int) -> None:
    for box in boxes:
        _require(bool(box) and box in whole, f"rank {rank} has {box} of {whole}")


def _work(layer: Layer, work: Work, whole: Region, ranks: int, graph: LayerGraph) -> None:
    _require(0 <= work.rank < ranks, f"there is no rank {work.rank}")
    _inside([work.output], whole, work.rank)
    if work.depth is not None:
        _require(isinstance(layer, Conv), "only convs are split by their input channels")
        assert isinstance(layer, Conv)
        _span(work.depth, layer.spec.in_channels // layer.spec.groups, "input channels")
    if work.in_parts:
        source = graph.tensors[layer.reads[0]]
        fits = layer.by_sums and not source.precision.quantized
        _require(fits, "only means over rows and columns of what is no byte are split by the rows and columns that they sum")
        for span, size, what in ((work.rows, source.height, "rows"), (work.columns, source.width, "columns")):
            if span is not None:
                _span(span, size, what)
    _require(not work.raw or isinstance(layer, Conv), "only convs can be left unfinished")


def _span(span: Span, size: int, what: str) -> None:
    _require(bool(span) and span in Span(0, size), f"it has {size} {what}, not {span.start} to {span.stop}")


def _sums(layer: Layer, works: Sequence[Work], whole: Region, graph: LayerGraph) -> None:
    """Check that every value of the output is the sum of all its parts, each counted once."""
    parts: dict[Region, list[Region]] = defaultdict(list)
    for work in works:
        parts[work.output].append(_summed(layer, work, graph))
    _require(len({(work.output, work.rank) for work in works}) == len(works), "a rank has two parts of one sum")
    twice, left = _covering(whole, parts)
    _require(twice is None, f"a part of {twice} is computed twice")
    _require(left is None, f"no rank computes {left}")
    for region, summed in parts.items():
        twice, left = _covering(_summed(layer, Work(MASTER, whole), graph), summed)
        _require(twice is None, f"the sum of {region} has a part twice, of {twice}")
        _require(left is None, f"the sum of {region} lacks a part, {left}")


def _covering(whole: Region, boxes: Iterable[Region]) -> tuple[Region | None, Region | None]:
    """(a box of which another one has a part, a part of the whole that no box has); None where there is none."""
    left = [whole]
    for box in boxes:
        rest = [piece for part in left for piece in subtract(part, [box])]
        if sum(part.elements for part in left) - sum(part.elements for part in rest) != box.elements:
            return box, None
        left = rest
    return None, left[0] if left else None


def _summed(layer: Layer, work: Work, graph: LayerGraph) -> Region:
    """What a part sums: input channels of a conv, or rows and columns of a mean over them."""
    if isinstance(layer, Conv):
        depth = work.depth or Span(0, layer.spec.in_channels // layer.spec.groups)
        return Region(depth, Span(0, 1), Span(0, 1))
    return work.summed(graph.tensors[layer.reads[0]].region.with_channels(Span(0, 1)))


def _guard(layer: Layer, placement: Placement, ranks: int) -> None:
    guard = placement.guard
    if guard is None:
        return
    works = placement.work
    _require(guard.code is None or 0 < guard.code < ranks, f"there is no worker {guard.code} to guard it")
    _require(0 <= guard.patience_s < float("inf"), f"a patience of {guard.patience_s} s")
    _require(isinstance(layer, Conv) and all(work.raw for work in works), "only unfinished parts of a conv can be guarded")
    if guard.code is None:
        return
    assert isinstance(layer, Conv)
    _require(layer.spec.groups == 1 and not any(work.depth for work in works), "its parts have no code in common")
    _require(guard.code not in {work.rank for work in works}, f"rank {guard.code} computes a part and the code")
    _require(len({(work.output.rows, work.output.columns) for work in works}) == 1, "its parts read different inputs")
