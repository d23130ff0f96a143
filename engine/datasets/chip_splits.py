"""Which chips train, validate and test, of several places: ground that two share is on one side."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import numpy.typing as npt
import shapely
from pyproj import CRS
from scipy.sparse.csgraph import connected_components
from shapely.geometry.base import BaseGeometry

from engine.datasets.chips import ChipSet
from engine.datasets.splits import SPLITS, Codes, split_by_block, split_by_group
from engine.errors import AreaError, LabelError
from engine.grid.area import reproject
from engine.recipes.segmenting import SegmenterSplit

__all__ = ["split_chips"]

_FAR = 1e8  # metres, beyond all coordinates: a place's ground is moved aside by it
_TOUCHING = 1e-6  # metres
_SHARED = 1.0  # square metres, a pixel: footprints with less in common touch


def split_chips(
    choice: SegmenterSplit,
    parts: Sequence[ChipSet],
    crs: Sequence[str | None],
    scenes: Sequence[npt.NDArray[np.int64]] | None = None,
) -> list[Codes]:
    """The split of each part's chips.

    Blocks lie on multiples of their side in their CRS and are drawn by place; places that share
    ground are drawn as one, so that a city labelled in two years, or from a raster and from
    polygons, is not tested on what it was trained on. Whole places are split as they are named.

    Parameters
    ----------
    choice : SegmenterSplit
    parts : one place each.
    crs : of each part's centres; None where nobody knows.
    scenes : of each part's chips, for blocks that are dealt out by them; -1 for none.

    Returns
    -------
    For each part uint8 (n,), positions in `SPLITS`, 255 for none

    Raises
    ------
    LabelError
        Where chips came without a split or a place that is needed, a place is not there, or two
        places share ground and have different CRSs.
    """
    match choice.by:
        case "own":
            if any((part.split >= len(SPLITS)).any() for part in parts):
                raise LabelError("not all chips came with a split", remedy="split.by: block")
            return [part.split for part in parts]
        case "place":
            names = [part.places[0] for part in parts]
            unknown = set(choice.validation + choice.test) - set(names)
            if unknown or not choice.validation:
                raise LabelError(
                    "split.by: place needs places",
                    got=", ".join(sorted(unknown)) or "no validation",
                    expected=f"validation of {', '.join(names)}",
                )
            codes = [1 if n in choice.validation else 2 if n in choice.test else 0 for n in names]
            return [np.full(len(p), c, np.uint8) for p, c in zip(parts, codes, strict=True)]
    known = [name for name in crs if name is not None]
    if len(known) < len(parts) or any(np.isnan(part.xy).any() for part in parts):
        raise LabelError(
            "imported chips have no place to split blocks by", remedy="split.by: own, or place"
        )
    if choice.by == "frame":
        assert scenes is not None
        return _by_frame(choice, parts, _grounds(parts, known), scenes)
    # chips that only touch share no pixel
    return [
        split_by_block(
            part.xy, _metres(part) - _TOUCHING, choice.side, choice.shares, choice.seed + first
        )
        for part, first in zip(parts, _grounds(parts, known), strict=True)
    ]


def _metres(part: ChipSet) -> float:
    """Side of a chip on the ground."""
    return part.side * part.resolution


def _by_frame(
    choice: SegmenterSplit,
    parts: Sequence[ChipSet],
    grounds: Sequence[int],
    scenes: Sequence[npt.NDArray[np.int64]],
) -> list[Codes]:
    """Whole blocks of ground, of all places at once, rare scenes first."""
    ground = np.concatenate([np.full(len(p), g) for p, g in zip(parts, grounds, strict=True)])
    xy = np.concatenate([part.xy for part in parts])
    block = np.column_stack([ground, np.floor(xy / choice.side).astype(np.int64)])
    _, group = np.unique(block, axis=0, return_inverse=True)
    metres = max(map(_metres, parts))
    apart = np.column_stack([xy[:, 0] + _FAR * ground, xy[:, 1]])  # places that share no ground
    found = split_by_group(
        group.reshape(-1).astype(np.int64),
        np.concatenate(scenes) + 1,
        apart,
        metres,
        choice.shares,
        choice.seed,
        side=choice.side,
    )
    return np.split(found, np.cumsum([len(part) for part in parts])[:-1])


def _grounds(parts: Sequence[ChipSet], crs: Sequence[str]) -> list[int]:
    """For each place the number of the first one that its ground hangs together with."""
    feet = [_footprint(part) for part in parts]
    shared = np.zeros((len(parts), len(parts)), bool)
    for a, b in combinations(range(len(parts)), 2):
        shared[a, b] = _share(feet[a], crs[a], feet[b], crs[b])
        if shared[a, b] and CRS.from_user_input(crs[a]) != CRS.from_user_input(crs[b]):
            raise LabelError(
                "two places share ground and have grids of different CRSs: blocks of the one are "
                "not blocks of the other",
                got=f"{parts[a].places[0]}: {crs[a]}, {parts[b].places[0]}: {crs[b]}",
                expected="one CRS for both",
                remedy="set grid.crs of both map recipes to one, or split.by: place",
            )
    group = connected_components(shared, directed=False)[1]
    return [int(np.flatnonzero(group == mine)[0]) for mine in group]


def _footprint(part: ChipSet) -> BaseGeometry:
    (x, y), half = part.xy.T, _metres(part) / 2
    found: BaseGeometry = shapely.union_all(shapely.box(x - half, y - half, x + half, y + half))
    return found


def _share(a: BaseGeometry, crs_a: str, b: BaseGeometry, crs_b: str) -> bool:
    try:
        b = reproject(b, crs_b, crs_a)
    except AreaError:  # b lies where a's CRS has no sense: far from a
        return False
    return bool(shapely.intersection(a, b).area >= _SHARED)
