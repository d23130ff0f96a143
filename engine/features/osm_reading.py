"""Objects of an extract of OpenStreetMap as shapes of classes; what it cannot give is counted.

osmium assembles areas from closed ways and from relations. It leaves out silently what lacks a
node or a member, and hands over without rings what crosses itself: each wanted object that does
not come back as an area is listed here with the reason.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from shapely.geometry.base import BaseGeometry

from engine.errors import RecipeError
from engine.features.coastline import Coast
from engine.features.osm_classes import WATER, classes_of, width_of
from engine.features.osm_opening import Box, history, open_extract, refusing
from engine.files import scratch

__all__ = ["CUT", "Extract", "read_extract"]

_IN_MEMORY = 256 << 20  # bytes of a file whose nodes are kept in memory; of larger ones on disk
_MOST_POINTS = 60_000_000  # of shapes that are kept: about 2 GB
_MOST_MEMBERS = 50_000  # of a relation; OpenStreetMap itself allows 32,000
_SILENT = {"type", "source", "created_by", "note", "comment", "attribution", "name"}
"""Keys of a relation that say nothing of its ground: its outer ways do, as until 2017."""

CUT = "a node is missing (cut at the border, or out of range)"
CROSSED = "its ring does not close, or crosses itself"
PARTIAL = "a member is missing"
EMPTY = "its members are no ways"
OPEN = "a way with tags of an area is no ring"
HUGE = f"a relation of more than {_MOST_MEMBERS} members"
ROUND = "it goes round the Earth"


@dataclass
class Extract:
    """What an extract holds of some classes.

    Attributes
    ----------
    name : of the file.
    classes : that were asked for.
    box : that the file says it covers, in degrees; None where it does not say.
    timestamp : of the extract, or of its newest object of these classes.
    areas : polygons in degrees, of each class.
    roads : lines in degrees, with their widths in metres.
    coasts : runs of known nodes of coastlines.
    dropped : for each reason, ids of objects that are no shapes, as ``w123`` and ``r45``.
    relations : that the file holds, of any class.
    unknown : of each of these, the reason, and bounds in degrees of the nodes that are known.
    """

    name: str
    classes: tuple[str, ...]
    box: Box | None = None
    timestamp: datetime | None = None
    areas: dict[str, list[BaseGeometry]] = field(default_factory=dict)
    roads: list[tuple[BaseGeometry, float]] = field(default_factory=list)
    coasts: list[Coast] = field(default_factory=list)
    dropped: dict[str, list[str]] = field(default_factory=dict)
    unknown: list[tuple[str, Box]] = field(default_factory=list)
    relations: int = 0

    def drop(self, reason: str, name: str, box: Box | None) -> None:
        """Count an object that is no shape."""
        self.dropped.setdefault(reason, []).append(name)
        if box is not None:
            self.unknown.append((reason, box))


@dataclass
class _Relation:
    classes: tuple[str, ...]
    ways: tuple[int, ...]
    outer: tuple[int, ...]


@dataclass
class _Way:
    """Of a member: the bounds of its known nodes, and whether it lacks some."""

    box: Box | None
    cut: bool


def read_extract(path: Path, classes: Sequence[str], near: Box | None = None) -> Extract:
    """Read the objects of some classes.

    Parameters
    ----------
    path : of the extract; its form is recognised by its first bytes.
    classes : of `osm_classes.CLASSES`.
    near : west, south, east, north in degrees: areas and roads that lie outside are not kept.

    Raises
    ------
    RecipeError
        Where osmium is not installed, or the file is not what can be used: empty, a history, over
        the 180th meridian, without nodes, too large.
    ReadError
        Where the file is damaged.
    """
    return _Reading(path, tuple(classes), near).run()


class _Reading:
    """One reading of a file: relations first, then nodes, ways, and areas as they are made."""

    def __init__(self, path: Path, classes: tuple[str, ...], near: Box | None) -> None:
        self.path, self.near = path, near
        opened = open_extract(path)
        self.osmium, self.file = opened.osmium, opened.file
        self.found = Extract(
            path.name, classes, opened.box, opened.timestamp, {name: [] for name in classes}
        )
        self.relations: dict[int, _Relation] = {}
        self.outer_of: dict[int, list[int]] = {}  # relations that a way is an outer member of
        self.members: dict[int, _Way | None] = {}
        self.ways: dict[int, tuple[tuple[str, ...], _Way]] = {}  # closed ones that wait for an area
        self.untagged: set[int] = set()
        self.seen, self.placed, self.points = 0, 0, 0
        self.newest: datetime | None = None
        self.wkb = self.osmium.geom.WKBFactory()

    def run(self) -> Extract:
        osmium, found = self.osmium, self.found
        with refusing(self.path, osmium):
            self._look_at_relations()
            with scratch() as folder:
                index = "flex_mem"
                if os.path.getsize(self.path) > _IN_MEMORY:
                    index = f"sparse_file_array,{folder / 'nodes'}"
                wanted = osmium.osm.WAY | osmium.osm.AREA
                keep = osmium.FileProcessor(self.file).with_locations(index)
                keep = keep.with_areas(_Wanted(self.relations))
                for thing in keep.with_filter(osmium.filter.EntityFilter(wanted)):
                    if thing.is_area():
                        self._take_area(thing)
                    else:
                        self._take_way(thing)
        if not self.seen or not self.placed:
            raise RecipeError(
                "an extract of OpenStreetMap holds no way that has a place",
                got=f"{found.name}: {self.seen} ways, {self.placed} of them with a node",
                expected="nodes, then ways, then relations",
                remedy="it may be empty, without nodes, cut short or unsorted: get it again, or "
                "sort it (osmium sort); ids must be positive",
            )
        self._count_dropped()
        found.timestamp = found.timestamp or self.newest
        return found

    def _look_at_relations(self) -> None:
        wanted = {*self.found.classes}
        file = self.osmium.FileProcessor(self.file, self.osmium.osm.RELATION)
        last = None
        for relation in file.with_filter(self.osmium.filter.KeyFilter("type")):
            self.found.relations += 1
            if relation.id == last:  # osmium tells of ways that come twice, and of ways alone
                raise history(self.path.name)
            last = relation.id
            tags = dict(relation.tags)
            if tags["type"] not in ("multipolygon", "boundary"):
                continue
            classes = tuple(name for name in classes_of(tags) if name in wanted)
            old = tags["type"] == "multipolygon" and not {*tags} - _SILENT
            if not classes and not old:
                continue
            if len(relation.members) > _MOST_MEMBERS:
                self.found.drop(HUGE, f"r{relation.id}", None)
                continue
            ways = [(m.ref, m.role) for m in relation.members if m.type == "w"]
            outer = tuple(ref for ref, role in ways if role != "inner")
            self.relations[relation.id] = _Relation(classes, tuple(r for r, _ in ways), outer)
            self.untagged.update([relation.id] if old else [])
            self.members.update((ref, None) for ref, _ in ways)
            for ref in outer:
                self.outer_of.setdefault(ref, []).append(relation.id)
            self._note_time(relation)

    def _take_way(self, way: Any) -> None:
        self.seen += 1
        tags = dict(way.tags)
        is_member = way.id in self.members
        if not tags and not is_member:
            if not self.placed and any(node.location.valid() for node in way.nodes):
                self.placed += 1
            return
        nodes = [(n.ref, n.lon, n.lat) if n.location.valid() else None for n in way.nodes]
        known = [node for node in nodes if node is not None]
        self.placed += bool(known)
        state = _Way(_bounds(known), len(known) < len(nodes))
        if is_member:
            self.members[way.id] = state
        if WATER in self.found.classes and tags.get("natural") == "coastline":
            self.found.coasts += _coasts(way.id, nodes)
            self._note_time(way)
        if "road" in self.found.classes and (width := width_of(tags)) is not None:
            self._take_road(nodes, width)
        classes = [n for n in classes_of(tags, line=True) if n in self.found.classes]
        if classes and tags.get("area") != "no":
            self._expect_area(way, classes, state)

    def _expect_area(self, way: Any, classes: list[str], state: _Way) -> None:
        """Remember what a way should become; its relation speaks for it where that has holes."""
        for number in self.outer_of.get(way.id, ()):
            relation = self.relations[number]
            if number in self.untagged:
                relation.classes = tuple(dict.fromkeys((*relation.classes, *classes)))
            classes = [name for name in classes if name not in relation.classes]
        if not classes or not self._is_near(state.box):
            return
        refs = [node.ref for node in way.nodes]
        if refs[0] == refs[-1] and len(refs) > 3:
            self.ways[way.id] = tuple(classes), state
            self._note_time(way)
        elif way.id not in self.members:
            self.found.drop(OPEN, f"w{way.id}", state.box)

    def _take_road(self, nodes: list[Any], width: float) -> None:
        for run in _runs(nodes):
            if len(run) > 1 and self._is_near(_bounds(run)):
                line = shapely.LineString([(lon, lat) for _, lon, lat in run])
                self._count_points(line)
                self.found.roads.append((line, width))

    def _take_area(self, area: Any) -> None:
        number = area.orig_id()
        if not area.num_rings()[0]:
            return  # it stays among those that wait
        if area.from_way():
            classes, _ = self.ways.pop(number, ((), None))
            name = f"w{number}"
        else:
            relation = self.relations.pop(number, None)
            classes = relation.classes if relation else ()
            name = f"r{number}"
        if not classes:
            return
        shape = shapely.from_wkb(self.wkb.create_multipolygon(area))
        west, south, east, north = shape.bounds
        if east - west > 180:
            self.found.drop(ROUND, name, None)
            return
        if not self._is_near((west, south, east, north)):
            return
        self._count_points(shape)
        for each in classes:
            self.found.areas[each].append(shape)

    def _count_points(self, shape: BaseGeometry) -> None:
        self.points += int(shapely.get_num_coordinates(shape))
        if self.points > _MOST_POINTS:
            raise RecipeError(
                "an extract of OpenStreetMap holds too much to be kept in memory",
                got=f"{self.path.name}: over {_MOST_POINTS:,} points of the classes asked for",
                remedy="cut it to the area (osmium extract -b WEST,SOUTH,EAST,NORTH -s smart), or "
                "ask for fewer classes",
            )

    def _count_dropped(self) -> None:
        found = self.found
        for number, (_, state) in self.ways.items():
            found.drop(CUT if state.cut else CROSSED, f"w{number}", state.box)
        for number, relation in self.relations.items():
            if not relation.classes:
                continue  # of outer ways that are none of the classes
            states = [self.members[way] for way in relation.ways]
            there = [state for state in states if state is not None]
            box = _around([state.box for state in there if state.box is not None])
            if not self._is_near(box):
                continue
            reason = CROSSED
            if not states:
                reason = EMPTY
            elif len(there) < len(states):
                reason = PARTIAL
            elif any(state.cut for state in there):
                reason = CUT
            found.drop(reason, f"r{number}", box)
        for names in found.dropped.values():
            names.sort(key=lambda name: (name[0], int(name[1:])))

    def _is_near(self, box: Box | None) -> bool:
        if self.near is None or box is None:
            return self.near is None
        west, south, east, north = self.near
        return box[0] <= east and box[2] >= west and box[1] <= north and box[3] >= south

    def _note_time(self, thing: Any) -> None:
        told = thing.timestamp
        if told.year > 1970 and (self.newest is None or told > self.newest):
            self.newest = told


class _Wanted:
    """A filter of relations: all others are left out before osmium collects their ways."""

    def __init__(self, relations: Mapping[int, Any]) -> None:
        self._relations = relations

    def relation(self, relation: Any) -> bool:
        """True is what goes no further."""
        return relation.id not in self._relations


def _runs(nodes: list[Any]) -> list[list[Any]]:
    """Known nodes that follow one another."""
    runs: list[list[Any]] = [[]]
    for node in nodes:
        if node is None:
            runs.append([])
        else:
            runs[-1].append(node)
    return [run for run in runs if run]


def _coasts(way: int, nodes: list[Any]) -> list[Coast]:
    found, first = [], 0
    for run in _runs(nodes):
        first = next(k for k in range(first, len(nodes)) if nodes[k] is run[0])
        last = first + len(run) - 1
        cut = first > 0, last < len(nodes) - 1
        xy = np.array([(lon, lat) for _, lon, lat in run], np.float64)
        found.append(Coast(way, (run[0][0], run[-1][0]), xy, cut))
        first = last + 1
    return found


def _bounds(nodes: list[Any]) -> Box | None:
    if not nodes:
        return None
    lon, lat = [n[1] for n in nodes], [n[2] for n in nodes]
    return min(lon), min(lat), max(lon), max(lat)


def _around(boxes: list[Box]) -> Box | None:
    if not boxes:
        return None
    west, south, east, north = zip(*boxes, strict=True)
    return min(west), min(south), max(east), max(north)
