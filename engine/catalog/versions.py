"""Items that are versions of one acquisition: one of them is kept.

An acquisition of a tile is what one datastrip shows of it. Where a datastrip ends within the tile
and the next begins, the tile has two, which lie side by side: both are kept.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from datetime import timedelta

from shapely.geometry import shape

from engine.items import Item

__all__ = ["newest"]

_SENTINEL = re.compile(r"S2[A-Z]_")
"""What an id begins with; items of early catalogues say neither datatake nor baseline."""

_OVERPASS = timedelta(minutes=45)
"""Less than an orbit: two moments of one satellite over one tile are of one overpass."""

_MINUTE = timedelta(minutes=1)
_SAME = 0.5
"""Common share of two footprints from which they show the same ground: versions are outlined
alike, and neighbours along the orbit share a strip."""


def newest(items: Iterable[Item]) -> tuple[list[Item], int]:
    """One item for each acquisition: of the newest baseline, then by name. How many were dropped.

    Of Sentinel products only: frames of others may lie in one square and be of one minute, as all
    are that are known by their date alone.
    """
    kept: list[Item] = []
    tiles: dict[str, list[Item]] = defaultdict(list)
    count = 0
    for item in items:
        count += 1
        if item.tile and _is_sentinel(item):
            tiles[item.tile].append(item)
        else:
            kept.append(item)
    for found in tiles.values():
        best: list[Item] = []
        for item in sorted(found, key=_age, reverse=True):
            if not any(_are_versions(item, other) for other in best):
                best.append(item)
        kept += best
    return kept, count - len(kept)


def _is_sentinel(item: Item) -> bool:
    return bool(item.datatake or item.baseline or _SENTINEL.match(item.id))


def _age(item: Item) -> tuple[str, str, str, str]:
    return item.baseline or "", item.id, item.collection, item.stamp


def _are_versions(one: Item, other: Item) -> bool:
    """Whether two items of one tile show the same acquisition."""
    apart = abs(one.datetime - other.datetime)
    if apart > _OVERPASS or (_platform(one) or _platform(other)) != (
        _platform(other) or _platform(one)
    ):
        return False
    if one.strip and other.strip:
        return one.strip == other.strip
    if one.datatake and other.datatake:
        if _take(one.datatake) != _take(other.datatake):
            return False
    elif apart > _MINUTE:
        return False
    return _overlap(one, other) >= _SAME


def _platform(item: Item) -> str | None:
    """Which of the satellites, as the datatake or the id says it; two fly in one minute."""
    found = re.match(r"G?(S2[A-Z])_", item.datatake or item.id)
    return found[1] if found else None


def _take(datatake: str) -> str:
    # The datatake's last part is the baseline; the overpass is what comes before it.
    return datatake.rpartition("_N")[0] or datatake


def _overlap(one: Item, other: Item) -> float:
    """What two footprints share, of what they cover together."""
    first, second = shape(one.geometry), shape(other.geometry)
    whole = float(first.union(second).area)
    return float(first.intersection(second).area) / whole if whole else 0.0
