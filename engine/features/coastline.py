"""The sea of an extract: coastlines joined, and closed at its border with land on their left.

OpenStreetMap has no polygon of the sea. Ways `natural=coastline` are directed so that land lies on
their left and water on their right. An extract holds pieces of them; its border closes these.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely
from shapely.geometry.base import BaseGeometry

__all__ = ["Coast", "Sea", "sea_of"]

_FAR = 0.02  # degrees, at most, from the last known node of a coast to the border it left by
_ASIDE = 1e-8  # degrees that a point is put beside a coast; nodes are whole 1e-7
_SURE = 0.9  # share of the coast along a face that must agree
_ASKED = 200_000  # points that are asked at once on which face they lie


@dataclass(frozen=True)
class Coast:
    """A run of known nodes of one way, in its direction.

    Attributes
    ----------
    way : its id.
    nodes : ids of the first and the last node.
    xy : float64 (n, 2), degrees, n >= 1.
    cut : whether the way goes on at either end, by nodes that the extract lacks.
    """

    way: int
    nodes: tuple[int, int]
    xy: npt.NDArray[np.float64]
    cut: tuple[bool, bool] = (False, False)


@dataclass(frozen=True)
class Sea:
    """What coastlines say of an extract.

    Attributes
    ----------
    water : polygons of the sea, in degrees.
    unknown : polygons on which coastlines disagree or which they do not close.
    lines : of coast within the extract, joined.
    islands : of them, rings.
    extended : ends that were drawn on to the border, because the extract lacks their next node.
    farthest : degrees by which.
    unclosed : ids of ways at ends that lie inside, at a node beyond which there is nothing.
    backward : ids of ways that say the opposite of what lies along the rest of their face.
    """

    water: list[BaseGeometry] = field(default_factory=list)
    unknown: list[BaseGeometry] = field(default_factory=list)
    lines: int = 0
    islands: int = 0
    extended: int = 0
    farthest: float = 0.0
    unclosed: tuple[int, ...] = ()
    backward: tuple[int, ...] = ()


@dataclass
class _Line:
    """Coasts joined end to end; `ways` are those of each point."""

    xy: npt.NDArray[np.float64]
    ways: npt.NDArray[np.int64]
    cut: tuple[bool, bool]
    closed: bool


def sea_of(coasts: Sequence[Coast], extent: BaseGeometry) -> Sea:
    """The sea within an extract.

    Parameters
    ----------
    coasts : in any order.
    extent : the ground that the extract covers, valid polygons in degrees.

    Returns
    -------
    Sea : empty where no coast lies within.
    """
    lines = _joined(coasts)
    border = extent.boundary
    shapely.prepare(extent)
    extended, farthest, unclosed = 0, 0.0, set()
    for line in lines:
        if line.closed:
            continue
        for end in (0, -1):
            point = shapely.Point(line.xy[end])
            away = float(border.distance(point))
            if not extent.contains(point) or away == 0:
                continue
            if line.cut[end] and away <= _FAR:
                onto = border.interpolate(border.project(point))
                _extend(line, end, (onto.x, onto.y))
                extended, farthest = extended + 1, max(farthest, away)
            else:
                unclosed.add(int(line.ways[end]))
    drawn = [line for line in lines if len(line.xy) > 1]
    shapes = [shapely.LineString(line.xy) for line in drawn]
    inside = [extent.intersects(shape) for shape in shapes]
    drawn = [line for line, here in zip(drawn, inside, strict=True) if here]
    shapes = [shape for shape, here in zip(shapes, inside, strict=True) if here]
    if not drawn:
        return Sea(unclosed=tuple(sorted(unclosed)))
    noded = shapely.union_all([border, *shapes])
    parts = shapely.get_parts(shapely.polygonize([noded]))
    within = shapely.contains_properly(extent, shapely.point_on_surface(parts))
    faces = parts[within]
    water, unknown, backward = _judged(drawn, faces, extent)
    return Sea(
        water,
        unknown,
        len(drawn),
        sum(line.closed for line in drawn),
        extended,
        farthest,
        tuple(sorted(unclosed)),
        backward,
    )


def _joined(coasts: Sequence[Coast]) -> list[_Line]:
    """Coasts end to end: one that begins at the node at which another ends goes on from it."""
    once = {(c.way, c.nodes, len(c.xy)): c for c in sorted(coasts, key=lambda c: (c.way, c.nodes))}
    pieces = list(once.values())
    starts: dict[int, list[int]] = {}
    for k, piece in enumerate(pieces):
        if not piece.cut[0]:
            starts.setdefault(piece.nodes[0], []).append(k)
    following: dict[int, int] = {}
    taken: set[int] = set()
    for k, piece in enumerate(pieces):
        if piece.cut[1] or piece.nodes[0] == piece.nodes[1]:
            continue
        after = [j for j in starts.get(piece.nodes[1], ()) if j not in taken and j != k]
        if after:
            following[k] = after[0]
            taken.add(after[0])
    seen: set[int] = set()
    found = []
    for first in [*(k for k in range(len(pieces)) if k not in taken), *range(len(pieces))]:
        run, k = [], first
        while k not in seen:
            seen.add(k)
            run.append(k)
            if k not in following:
                break
            k = following[k]
        if run:
            found.append(_line([pieces[k] for k in run]))
    return found


def _line(run: list[Coast]) -> _Line:
    xy = [run[0].xy, *(piece.xy[1:] for piece in run[1:])]
    ways = [np.full(len(part), piece.way) for part, piece in zip(xy, run, strict=True)]
    cut = run[0].cut[0], run[-1].cut[1]
    closed = run[0].nodes[0] == run[-1].nodes[1] and not any(cut)
    points = np.concatenate(xy)
    return _Line(points, np.concatenate(ways), cut, closed and len(points) > 3)


def _extend(line: _Line, end: int, to: tuple[float, float]) -> None:
    at = 0 if end == 0 else len(line.xy)
    line.xy = np.insert(line.xy, at, to, axis=0)
    line.ways = np.insert(line.ways, at, line.ways[end])


def _judged(
    lines: Sequence[_Line], faces: npt.NDArray[Any], extent: BaseGeometry
) -> tuple[list[BaseGeometry], list[BaseGeometry], tuple[int, ...]]:
    """Faces that are water, faces that nobody knows, and ways that say the opposite of a face."""
    segments = [_within(line, extent) for line in lines]
    middle, left, length, way = (np.concatenate(parts) for parts in zip(*segments, strict=True))
    votes = np.zeros((len(faces), 2))
    asked: list[tuple[npt.NDArray[Any], npt.NDArray[Any], int]] = []
    for first in range(0, len(middle), _ASKED):
        part = slice(first, first + _ASKED)
        for side, beside in enumerate((left[part], -left[part])):
            points = shapely.points(middle[part] + beside)
            face, segment = shapely.STRtree(points).query(faces, predicate="contains")
            np.add.at(votes[:, side], face, length[first + segment])
            asked.append((face, first + segment, side))
    sea = votes[:, 1] > votes[:, 0]
    unsure = votes.max(axis=1) < _SURE * votes.sum(axis=1)
    # no coast along it: it is a part of the extent, or lies between coasts that cross each other
    alone = shapely.area(shapely.get_parts(extent))
    silent = votes.sum(axis=1) == 0
    whole = np.isclose(shapely.area(faces)[:, None], alone, rtol=1e-9, atol=0).any(axis=1)
    unsure |= silent & ~whole
    wrong: set[int] = set()
    for face, segment, side in asked:
        against = (sea[face] != (side == 1)) & ~unsure[face]
        wrong.update(way[segment[against]].tolist())
    return list(faces[sea & ~unsure]), list(faces[unsure]), tuple(sorted(wrong))


def _within(line: _Line, extent: BaseGeometry) -> tuple[npt.NDArray[Any], ...]:
    """Of the segments of a line, cut at the border: middle, what is on its left, length, way."""
    ends = np.stack([line.xy[:-1], line.xy[1:]], axis=1)
    ways = line.ways[:-1]
    drawn = shapely.linestrings(ends)
    leaves = ~shapely.covers(extent, drawn)
    cut = np.flatnonzero(leaves)
    parts, row = shapely.get_parts(shapely.intersection(drawn[cut], extent), return_index=True)
    lines = (shapely.get_type_id(parts) == 1) & ~shapely.is_empty(parts)
    parts, row = parts[lines], cut[row[lines]]
    inner = np.stack(
        [shapely.get_coordinates(shapely.get_point(parts, k)) for k in (0, -1)], axis=1
    ).reshape(-1, 2, 2)
    ends, ways = np.concatenate([ends[~leaves], inner]), np.concatenate([ways[~leaves], ways[row]])
    step = ends[:, 1] - ends[:, 0]
    length = np.hypot(step[:, 0], step[:, 1])
    kept = length > 0
    ends, step, length, ways = ends[kept], step[kept], length[kept], ways[kept]
    left = np.stack([-step[:, 1], step[:, 0]], axis=1) / length[:, None] * _ASIDE
    return ends.mean(axis=1), left, length, ways
