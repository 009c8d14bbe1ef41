"""Options: all ways of all families to compute each layer of a graph, with their costs.

A new family is a file with a `Family` in this package and an entry in FAMILIES; a new mode needs nothing else as long as
`needs` returns the regions that its work reads.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fogconv.errors import GeometryError
from fogconv.ir.geometry import Region
from fogconv.ir.graph import LayerGraph
from fogconv.ir.layers import Conv, Host, Layer
from fogconv.ir.layout import Layout, transfers
from fogconv.ir.shard import Work
from fogconv.lowering.overlap import hidden_share
from fogconv.planning.cost import Prices
from fogconv.planning.layout_table import LayoutBook
from fogconv.planning.limits.allowed import Allowed
from fogconv.planning.limits.tiling import Tiling
from fogconv.planning.strategies.areas.columns import COLUMNS
from fogconv.planning.strategies.areas.rows import ROWS
from fogconv.planning.strategies.areas.tiles import TILES
from fogconv.planning.strategies.channels import CHANNELS
from fogconv.planning.strategies.copies import COPIES
from fogconv.planning.strategies.dealing.grid import GRID
from fogconv.planning.strategies.dealing.sharers import least_sharers
from fogconv.planning.strategies.family import Family, Scheme, Way
from fogconv.planning.strategies.home import HOME
from fogconv.planning.strategies.offload import OFFLOAD, whole_on
from fogconv.planning.strategies.option import Option, weight_elements
from fogconv.planning.strategies.shares import Shares

FAMILIES: tuple[Family, ...] = (HOME, COPIES, CHANNELS, ROWS, COLUMNS, TILES, OFFLOAD, GRID)
"""The order matters: of options with equal costs the first is taken."""


class Options:
    """All options of all layers of a graph, for one scheme on one cluster; ``members`` are the ranks that get work (all).

    ``drifting``, ``fused``, ``tiling``: see `Shares`. ``allowed``: layers that one rank computes have that option only.
    """

    def __init__(
        self,
        graph: LayerGraph,
        prices: Prices,
        book: LayoutBook,
        scheme: Scheme,
        members: Sequence[int] | None = None,
        *,
        drifting: bool = False,
        fused: int = 0,
        tiling: Tiling | None = None,
        allowed: Allowed = Allowed(),
    ) -> None:
        self._graph = graph
        self._prices = prices
        self._sums = Prices(prices.topology, graph.picture.batch, element="int32")
        self._book = book
        self._scheme = scheme
        self._found: dict[str, tuple[Option, ...]] = {}
        self._allowed = allowed
        self._shares = Shares(
            graph,
            prices.topology,
            members,
            sharers=least_sharers(graph, len(members or prices.topology.ranks)) if scheme == "depth" else None,
            drifting=drifting,
            fused=fused,
            offloading=scheme == "offload",
            tiling=tiling,
        )

    def of(self, layer: Layer) -> tuple[Option, ...]:
        """The options of one layer: at least the one on the master, or on the rank that it is pinned to. Options that this
        geometry does not allow are left out."""
        found = self._found.get(layer.name)
        if found is None:
            priced = (self._priced(layer, way, kind) for way in self._ways(layer) for kind in way.kinds)
            found = self._found[layer.name] = tuple(option for option in priced if option is not None)
        return found

    def _ways(self, layer: Layer) -> Iterator[Way]:
        rank = self._allowed.rank_of(layer)
        if rank is not None and not isinstance(layer, Host):
            yield whole_on(layer, rank, self._shares)
            return
        for family in self._families(layer):
            yield from family.ways(layer, self._shares)

    def _families(self, layer: Layer) -> Sequence[Family]:
        if isinstance(layer, Host) or self._scheme == "local" or len(self._shares.members) < 2:
            return (HOME,)
        single_pixel = self._graph.tensors[layer.target].shape[2:] == (1, 1)
        return [family for family in FAMILIES if family.serves(self._scheme, single_pixel)]

    def whole_on_master(self, tensor: int) -> int:
        return self._book.number(self._shares.layout(tensor, "M"))

    def _priced(self, layer: Layer, way: Way, kind: str) -> Option | None:
        ranks, works = self._shares.ranks, tuple(way.work)
        needed: dict[int, list[tuple[Region, ...]]] = {}
        stored = [0] * ranks
        try:
            for work in works:
                for tensor, region in layer.needs(self._graph.tensors, work):
                    needed.setdefault(tensor, [()] * ranks)[work.rank] = (region,)
                if isinstance(layer, Conv):
                    stored[work.rank] += weight_elements(layer, work)
            edge_s = self._prices.slowest_s(layer, works, self._graph.tensors)
        except GeometryError:  # a part would read only padding, or cut a group
            return None
        if isinstance(layer, Host):
            return Option(way.mode, works, self._numbers(needed), -1, None, edge_s, 0.0, None, tuple(stored))
        joules = sum(self._prices.work_j(layer, work, self._graph.tensors) for work in works)
        partial = any(layer.is_partial(work) for work in works)
        if not partial:
            # There is no split by input channels where one rank has all of them.
            if kind:
                return None
            number = self._book.number(Layout(_made(works, ranks)))
            hidden_s = 0.0
            if isinstance(layer, Conv) and way.overlaps:
                hidden_s = edge_s * hidden_share(layer.spec, min((work.output for work in works), key=_elements))
            return Option(
                way.mode, works, self._numbers(needed), number, None, edge_s, 0.0, None, tuple(stored), hidden_s, joules
            )
        target = self._shares.layout(layer.target, kind)
        held = Layout(_made(works, ranks), partial=True)
        summed = self._sums if isinstance(layer, Conv) and layer.scales is not None else self._prices
        traffic = summed.traffic(transfers(held, target))
        finish_s = max(
            self._prices.finish_s(rank, box, len(works)) for rank, boxes in enumerate(target.regions) for box in boxes
        )
        joules += traffic.joules + sum(
            self._prices.busy_j(rank, self._prices.finish_s(rank, box, len(works)))
            for rank, boxes in enumerate(target.regions)
            for box in boxes
        )
        if isinstance(layer, Conv) and layer.residual is not None:
            needed[layer.residual] = list(target.regions)
        return Option(
            way.mode,
            works,
            self._numbers(needed),
            self._book.number(target),
            target,
            edge_s,
            traffic.seconds + finish_s,
            traffic,
            tuple(stored),
            joules=joules,
        )

    def _numbers(self, needed: dict[int, list[tuple[Region, ...]]]) -> tuple[tuple[int, int], ...]:
        return tuple((tensor, self._book.number(Layout(tuple(regions)))) for tensor, regions in needed.items())


def _elements(region: Region) -> int:
    return region.elements


def _made(works: Sequence[Work], ranks: int) -> tuple[tuple[Region, ...], ...]:
    made: list[tuple[Region, ...]] = [()] * ranks
    for work in works:
        made[work.rank] = (*made[work.rank], work.output)
    return tuple(made)
