"""Tiers: how far from the data a device stands, and the links that devices of two tiers have.

device   where the data arise, with the master
edge     on the same site, such as a server behind a wireless network
cloud    behind the internet
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import permutations
from typing import TypeVar

from fogconv.errors import TopologyError, shown

TIERS = ("device", "edge", "cloud")
MASTERS = "device"
"""The master's tier, where its workers have one."""

Link = TypeVar("Link")


def check_tier(name: str) -> str:
    """The name of a tier. Raises TopologyError for another."""
    if name not in TIERS:
        raise TopologyError(f"tier {shown(name)} is not known; it is {', '.join(TIERS[:-1])} or {TIERS[-1]}")
    return name


def shown_in(name: str, tier: str) -> str:
    """The name of a device, with its tier where it has one."""
    return f"{name} ({tier})" if tier else name


def linked(
    tiers: Sequence[str], links: Mapping[tuple[int, int], Link], between: Mapping[tuple[str, str], Link]
) -> dict[tuple[int, int], Link]:
    """``links`` of ranks, and for each pair without one that ``between`` has for their ``tiers``, by rank; the way back is
    the same where it has no other. Raises TopologyError for tiers in use that have none, where there are links between
    any: two ranks of one tier may do without, as their links to the master tell theirs."""
    ways = {(to, origin): link for (origin, to), link in between.items()} | dict(between)
    found = dict(links)
    for i, j in permutations(range(len(tiers)), 2):
        pair = (tiers[i], tiers[j])
        if (i, j) in found or not ways or not all(pair):
            continue
        if pair in ways:
            found[i, j] = ways[pair]
        elif tiers[i] != tiers[j] or 0 in (i, j):
            raise TopologyError(
                f"the tier {tiers[j]} (rank {j}) has no link to the tier {tiers[i]} (rank {i}): tier_links names none "
                f"between them, and links none of these ranks"
            )
    return found
