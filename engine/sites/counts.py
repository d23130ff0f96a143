"""One pass over a map of classes: pixels, edges and outlines by region, class and unit.

All counts are integers. So neither blocks nor threads nor an interruption can change one.
"""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.errors import LabelError
from engine.files import together
from engine.sites.edges import NOWHERE, PIECE, count_block, label, present
from engine.sites.ground import PixelAreas
from engine.sites.regions import RegionMap
from engine.sites.source import MOST_CODE, ClassMap

__all__ = ["BLOCK", "EDGES", "Counts", "count", "merged"]

BLOCK = 2048
"""Pixels along a block."""

EDGES = np.dtype([("region", "i4"), ("kind", "i4"), ("edges", "i8")])
"""Edges of a class in a region; ``kind`` is the class's code."""

_VERSION = 1  # of what is kept of an interrupted pass
_KEYS = ("row", "col", "region", "kind")


@dataclass(frozen=True)
class Counts:
    """What a map holds.

    Attributes
    ----------
    pieces : PIECE array, ascending by unit, region and code; ``kind`` is the class's code, and
        ``area`` is in quanta.
    edges : EDGES array, ascending by region and code.
    outline : int64 (region,)
    quantum : m2 that an area of 1 stands for.
    """

    pieces: npt.NDArray[np.void]
    edges: npt.NDArray[np.void]
    outline: npt.NDArray[np.int64]
    quantum: float


def count(
    source: ClassMap,
    regions: RegionMap,
    unit: int,
    *,
    block: int = BLOCK,
    threads: int | None = None,
    kept: Path | None = None,
    tell: Callable[[int, int], None] = lambda done, of: None,
) -> Counts:
    """Count a map.

    Parameters
    ----------
    source : ClassMap
    regions : RegionMap
    unit : side of a unit, in pixels.
    block : pixels along a block; it decides memory (some 20 bytes a pixel and thread) and nothing
        else.
    threads : by default as many as this process may use cores.
    kept : folder in which rows of blocks are kept until the pass is whole: a pass that was
        interrupted resumes. By default nowhere.
    tell : gets how many rows of blocks are done, and of how many.

    Raises
    ------
    LabelError
        Where no pixel has a class in a region.
    AreaError
        Where pixels have no area.
    """
    if unit < 1 or block < 1:
        raise LabelError("a unit must be a pixel or more", got=f"unit {unit}, block {block}")
    areas = PixelAreas(source.crs, source.transform, source.shape, unit)
    tops = range(0, source.shape[0], block)
    key = hashlib.sha256(
        repr((_VERSION, source.stamp, regions.stamp, unit, block)).encode()
    ).hexdigest()[:16]
    strips = []
    threads = threads or len(os.sched_getaffinity(0))
    with ThreadPoolExecutor(threads) as pool:
        for number, top in enumerate(tops):
            file = None if kept is None else kept / f"{key}-{number:06}.npz"
            strip = None if file is None else _load(file, areas.quantum)
            if strip is None:
                lefts = range(0, source.shape[1], block)

                def one(left: int, top: int = top) -> Counts | None:
                    return _count_at(source, regions, areas, unit, (top, left), block)

                found = [each for each in pool.map(one, lefts) if each is not None]
                strip = merged(found, len(regions.regions), areas.quantum)
                if file is not None:
                    _save(file, strip)
            strips.append(strip)
            if len(strips) >= 16:  # what waits stays small beside what is found
                strips = [merged(strips, len(regions.regions), areas.quantum)]
            tell(number + 1, len(tops))
    whole = merged(strips, len(regions.regions), areas.quantum)
    if not len(whole.pieces):
        raise LabelError(
            "no pixel of the map has a class in a region",
            got=source.name,
            remedy="look at the regions' CRS, and at codes that say nothing",
        )
    if (whole.pieces["area"] == 0).any():
        raise LabelError(
            "pixels of the map have no area on the ground",
            got=f"{source.name}: {int((whole.pieces['area'] == 0).sum())} pieces of units",
            expected="pixels within the domain of the map's CRS",
        )
    if kept is not None:
        for path in kept.glob(f"{key}-*.npz"):
            path.unlink()
    return whole


def merged(parts: list[Counts], regions: int, quantum: float) -> Counts:
    """The sum of counts of parts of one map."""
    pieces = _summed(_joined([part.pieces for part in parts], PIECE), _KEYS)
    edges = _summed(_joined([part.edges for part in parts], EDGES), ("region", "kind"))
    outline = np.sum([part.outline for part in parts], axis=0, dtype=np.int64, initial=0)
    return Counts(pieces, edges, outline + np.zeros(regions, np.int64), quantum)


def _joined(parts: list[npt.NDArray[np.void]], form: np.dtype[Any]) -> npt.NDArray[np.void]:
    return np.concatenate(parts) if parts else np.empty(0, form)


def _summed(rows: npt.NDArray[np.void], keys: tuple[str, ...]) -> npt.NDArray[np.void]:
    """Rows of one key as one, ascending."""
    if not len(rows):
        return rows
    ordered = rows[np.lexsort([rows[key] for key in reversed(keys)])]
    new = np.ones(len(ordered), bool)
    new[1:] = np.any([ordered[key][1:] != ordered[key][:-1] for key in keys], axis=0)
    first = np.flatnonzero(new)
    found: npt.NDArray[np.void] = ordered[first].copy()
    for name in rows.dtype.names or ():
        if name not in keys:
            found[name] = np.add.reduceat(ordered[name], first)
    return found


def _count_at(
    source: ClassMap,
    regions: RegionMap,
    areas: PixelAreas,
    unit: int,
    at: tuple[int, int],
    block: int,
) -> Counts | None:
    """Counts of one block; None where it has no pixel of a class in a region."""
    rows, cols = (
        slice(first, min(first + block, length))
        for first, length in zip(at, source.shape, strict=True)
    )
    ring = [
        slice(max(part.start - 1, 0), min(part.stop + 1, length))
        for part, length in zip((rows, cols), source.shape, strict=True)
    ]
    where = regions.read(ring[0], ring[1])
    if (where == NOWHERE).all():
        return None
    codes = source.read(ring[0], ring[1])
    here_codes = present(codes, MOST_CODE)
    here_regions = present(where, len(regions.regions) - 1)
    if not len(here_codes):
        return None
    classes = len(here_codes)
    labels = np.empty((rows.stop - rows.start + 2, cols.stop - cols.start + 2), np.int32)
    labels[[0, -1]] = NOWHERE
    labels[:, [0, -1]] = NOWHERE
    inner = labels[
        1 - (rows.start - ring[0].start) : 1 + ring[0].stop - rows.start,
        1 - (cols.start - ring[1].start) : 1 + ring[1].stop - cols.start,
    ]
    label(codes, where, here_codes, here_regions, inner)
    weights = areas.weights(rows, cols)
    found = count_block(labels, classes, len(here_regions), unit, at, weights)
    pieces = found.pieces
    pieces["region"] = here_regions[pieces["region"]]
    pieces["kind"] = here_codes[pieces["kind"]]
    region, kind = np.nonzero(found.edges)
    edges = np.empty(len(region), EDGES)
    edges["region"], edges["kind"] = here_regions[region], here_codes[kind]
    edges["edges"] = found.edges[region, kind]
    outline = np.zeros(len(regions.regions), np.int64)
    outline[here_regions] = found.outline
    return Counts(pieces, edges, outline, areas.quantum)


# -- what is kept of an interrupted pass ------------------------------------------------------


def _save(file: Path, strip: Counts) -> None:
    with together(file.parent) as part:
        np.savez(part / file.name, pieces=strip.pieces, edges=strip.edges, outline=strip.outline)


def _load(file: Path, quantum: float) -> Counts | None:
    """A row of blocks that an earlier pass counted, None where it did not."""
    try:
        with file.open("rb") as opened, np.load(opened, allow_pickle=False) as found:
            pieces, edges, outline = (found[name] for name in ("pieces", "edges", "outline"))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    if pieces.dtype != PIECE or edges.dtype != EDGES or outline.dtype != np.int64:
        return None
    return Counts(pieces, edges, outline, quantum)
