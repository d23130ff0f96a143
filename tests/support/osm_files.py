"""Hand-made extracts of OpenStreetMap, of places told in metres of a projection."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

from pyproj import Transformer

CRS = "EPSG:32635"
WEST, SOUTH = 500_000.0, 6_600_000.0
SIDE = 3200.0  # metres of the box that an extract says it covers, about
DAY = "2017-06-01T12:00:00Z"

Place = tuple[str, float, float]


@lru_cache
def _back(crs: str) -> Transformer:
    return Transformer.from_crs(crs, "EPSG:4326", always_xy=True)


def degrees(x: float, y: float, place: Place = (CRS, WEST, SOUTH)) -> tuple[float, float]:
    """Metres from the south-western corner of a place as degrees."""
    crs, west, south = place
    lon, lat = _back(crs).transform(west + x, south + y)
    return float(lon), float(lat)


@dataclass
class Osm:
    """Nodes, ways and relations; ids count from 1."""

    nodes: dict[int, tuple[float, float]] = field(default_factory=dict)
    ways: dict[int, tuple[list[int], dict[str, str]]] = field(default_factory=dict)
    relations: dict[int, tuple[list[tuple[str, int, str]], dict[str, str]]] = field(
        default_factory=dict
    )
    bounds: tuple[float, float, float, float] | None = (0.0, 0.0, SIDE, SIDE)
    left_out: set[int] = field(default_factory=set)
    place: Place = (CRS, WEST, SOUTH)

    def node(self, x: float, y: float) -> int:
        """A node at metres."""
        number = len(self.nodes) + 1
        self.nodes[number] = degrees(x, y, self.place)
        return number

    def way(self, nodes: Sequence[int], **tags: str) -> int:
        """A way of nodes."""
        number = len(self.ways) + 1
        self.ways[number] = [*nodes], tags
        return number

    def line(self, points: Sequence[tuple[float, float]], **tags: str) -> int:
        """A way of new nodes."""
        return self.way([self.node(*point) for point in points], **tags)

    def ring(self, points: Sequence[tuple[float, float]], **tags: str) -> int:
        """A closed way of new nodes."""
        nodes = [self.node(*point) for point in points]
        return self.way([*nodes, nodes[0]], **tags)

    def square(self, x: float, y: float, side: float, **tags: str) -> int:
        """A square from its south-western corner."""
        corners = [(x, y), (x + side, y), (x + side, y + side), (x, y + side)]
        return self.ring(corners, **tags)

    def area(self, outer: Sequence[int], inner: Sequence[int] = (), **tags: str) -> int:
        """A multipolygon of ways."""
        members = [*(("way", w, "outer") for w in outer), *(("way", w, "inner") for w in inner)]
        return self.relation(members, type="multipolygon", **tags)

    def relation(self, members: Sequence[tuple[str, int, str]], **tags: str) -> int:
        """Any relation."""
        number = len(self.relations) + 1
        self.relations[number] = [*members], tags
        return number

    def text(self) -> str:
        """The file."""
        parts = ['<?xml version="1.0" encoding="UTF-8"?>\n<osm version="0.6">\n']
        if self.bounds is not None:
            west, south = degrees(*self.bounds[:2], self.place)
            east, north = degrees(*self.bounds[2:], self.place)
            parts.append(
                f'<bounds minlon="{west:.7f}" minlat="{south:.7f}" maxlon="{east:.7f}" '
                f'maxlat="{north:.7f}"/>\n'
            )
        for number, (lon, lat) in self.nodes.items():
            if number not in self.left_out:
                parts.append(f'<node {_head(number)} lon="{lon:.7f}" lat="{lat:.7f}"/>\n')
        for number, (nodes, tags) in self.ways.items():
            refs = "".join(f'<nd ref="{node}"/>' for node in nodes)
            parts.append(f"<way {_head(number)}>{refs}{_tags(tags)}</way>\n")
        for number, (members, tags) in self.relations.items():
            refs = "".join(f'<member type="{t}" ref="{n}" role="{r}"/>' for t, n, r in members)
            parts.append(f"<relation {_head(number)}>{refs}{_tags(tags)}</relation>\n")
        return "".join([*parts, "</osm>\n"])

    def write(self, folder: Path, name: str = "made.osm") -> Path:
        """As plain XML."""
        path = folder / name
        path.write_text(self.text(), encoding="utf-8")
        return path


def _head(number: int) -> str:
    return f'id="{number}" version="1" timestamp="{DAY}"'


def _tags(tags: dict[str, Any]) -> str:
    return "".join(f"<tag k={quoteattr(k)} v={quoteattr(v)}/>" for k, v in tags.items())
