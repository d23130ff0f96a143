"""Which items a tile of the scenes needs, day by day."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from datetime import date

import shapely
from shapely.geometry import shape
from shapely.geometry.base import BaseGeometry

from engine.cube.footprint import SLACK, claimed_frame
from engine.grid.area import reproject
from engine.grid.grid import Grid, Tile
from engine.items import Item
from engine.runs.stage import Part
from engine.store.arrays import day_index

__all__ = ["SLACK", "Frames", "ItemIndex", "frames_in"]

Frames = tuple[tuple[Item, tuple[float, ...]], ...]
"""Items, the best first, each with its extent's bounds; as `ItemIndex.about` hands them on."""


Holds = Callable[[date], bool]
"""Whether a solar day counts."""


def _always(day: date) -> bool:
    return True


def frames_in(frames: Frames, bounds: tuple[float, ...]) -> list[Item]:
    """Those that may show something of a window (west, south, east, north)."""
    left, bottom, right, top = bounds
    return [
        item
        for item, (west, south, east, north) in frames
        if west < right and east > left and south < top and north > bottom
    ]


class ItemIndex:
    """Items by place.

    Parameters
    ----------
    items : decided items; those with suspect radiometry supply no part.
    bands : B-names that are read; others do not enter the fingerprint.
    grid : Grid

    Attributes
    ----------
    items : tuple of Item
    sides : of their pixels in metres of the grid, by `items`; None where one does not say.
    """

    def __init__(self, items: Iterable[Item], bands: Iterable[str], grid: Grid) -> None:
        self.items = tuple(items)
        self._bands = (*bands, "SCL")
        self._grid = grid
        places = [_place(item, grid.crs) for item in self.items]
        self._extents = [extent for extent, _ in places]
        self.sides = [side for _, side in places]
        self._tree = shapely.STRtree(self._extents)
        self._stamps = [self._stamp(item) for item in self.items]

    def days(self, tile: Tile, holds: Holds = _always) -> list[Part]:
        """One part for each solar day that counts, with items that may reach the tile."""
        days: dict[int, list[int]] = {}
        for position in self._near(tile):
            item = self.items[position]
            if not item.suspect and holds(item.solar_day):
                days.setdefault(day_index(item.solar_day), []).append(position)
        return [
            Part(day, self._digest(found), tuple(self.items[i] for i in found))
            for day, found in sorted(days.items())
        ]

    def whole(self, tile: Tile, holds: Holds = _always) -> list[Part]:
        """All items of days that count that may reach the tile, as one part; for composites
        without scenes."""
        days = self.days(tile, holds)
        text = b"".join(part.index.to_bytes(4, "little") + part.fingerprint for part in days)
        suspects = self.suspects(tile, holds)[0]
        payload = (tuple(part.payload for part in days), suspects.payload)
        return [Part(0, text + suspects.fingerprint, payload)]

    def about(
        self, tile: Tile, reach: float, order: Callable[[Iterable[Item]], list[Item]]
    ) -> list[Part]:
        """All items within `reach` metres of a tile as one part, each with its extent's bounds.

        Their `order` is in the fingerprint: another one may show another frame.
        """
        near = {self.items[i].id: i for i in self._near(tile, reach)}
        found = [near[item.id] for item in order(self.items[i] for i in near.values())]
        payload = tuple((self.items[i], self._extents[i].bounds) for i in found)
        return [Part(0, self._digest(found), payload)]

    def near(self, tile: Tile, reach: float) -> list[Item]:
        """Items that may show something within `reach` metres of a tile."""
        return [self.items[i] for i in self._near(tile, reach)]

    def suspects(self, tile: Tile, holds: Holds = _always) -> list[Part]:
        """Extents (WKB) of items that the radiometry guard left out near a tile, as one part."""
        near = ((i, self.items[i]) for i in self._near(tile))
        found = [i for i, item in near if item.suspect and holds(item.solar_day)]
        if not found:
            return [Part()]
        payload = tuple(shapely.to_wkb(self._extents[i]) for i in found)
        return [Part(0, self._digest(found), payload)]

    def _near(self, tile: Tile, reach: float = 0.0) -> list[int]:
        left, bottom, right, top = self._grid.tile_bounds(tile)
        box = shapely.box(left - reach, bottom - reach, right + reach, top + reach)
        found = self._tree.query(box, predicate="intersects")
        return sorted((int(i) for i in found), key=lambda i: self.items[i].id)

    def _digest(self, positions: Iterable[int]) -> bytes:
        text = "".join(self._stamps[i] for i in positions)
        return hashlib.blake2b(text.encode(), digest_size=16).digest()

    def _stamp(self, item: Item) -> str:
        forms = [
            (name, a.scale, a.offset, a.card_nodata if a.nodata is None else a.nodata, a.index)
            for name in self._bands
            if (a := item.assets.get(name)) is not None
        ]
        return json.dumps([item.id, item.stamp, forms])


def _place(item: Item, crs: str) -> tuple[BaseGeometry, float | None]:
    """Where an item's pixels may lie, in the grid's CRS, and their side, if the item says it.

    The frame of the file, cut by the footprint with some slack. The footprint alone would not do:
    where it is too small, a large tile would see pixels that a small one does not.
    """
    footprint = reproject(shape(item.geometry), "EPSG:4326", crs).buffer(SLACK)
    claimed = claimed_frame(item, crs)
    if claimed is None:
        return footprint, None
    frame, side = claimed
    return shapely.intersection(frame.buffer(100.0), footprint), side
