"""Landscape shape indices of regions, of their classes, and of units.

LSI is the length of the edges over the shortest possible one: 0.25 E / sqrt(n) for n pixels and E
sides that are edges (Patton 1975). It is 1 of a square, and larger the more fragmented the land is.
FRAGSTATS 4 divides by the shortest outline that n whole pixels can have instead (McGarigal, Cushman
and Ene 2012), and so gives 1 of every compact patch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from engine.errors import LabelError
from engine.sites.counts import Counts

__all__ = ["Classes", "Form", "Inner", "Regions", "Units", "indices", "uneven"]

Form = Literal["patton", "fragstats"]
Inner = Literal["once", "twice"]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Regions:
    """A row for each region that has a pixel of a class.

    Attributes
    ----------
    region : place in the list of regions, ascending.
    pixels, area : that have a class; m2.
    edges : with borders between classes counted as `indices` was told.
    lsi : float, 1 or more.
    """

    region: Ints
    pixels: Ints
    area: Floats
    edges: Ints
    lsi: Floats


@dataclass(frozen=True)
class Classes:
    """A row for each class of a region, ascending by region and code.

    Attributes
    ----------
    region, code : int64
    pixels, area, edges, lsi : as of `Regions`.
    share : of the region's area, 0 to 1.
    """

    region: Ints
    code: Ints
    pixels: Ints
    area: Floats
    edges: Ints
    lsi: Floats
    share: Floats


@dataclass(frozen=True)
class Units:
    """A row for each class of the part of a unit that lies in a region.

    Attributes
    ----------
    row, col : of the unit, counted from the map's first pixel.
    region, code, pixels, area, edges, lsi : as of `Classes`; borders of the unit and of the region
        count as edges.
    """

    row: Ints
    col: Ints
    region: Ints
    code: Ints
    pixels: Ints
    area: Floats
    edges: Ints
    lsi: Floats


def indices(
    found: Counts, *, form: Form = "patton", inner: Inner = "once"
) -> tuple[Regions, Classes, Units]:
    """Indices of what was counted.

    Parameters
    ----------
    found : Counts
    form : "patton", 0.25 E / sqrt(n), or "fragstats", E over the shortest outline of n pixels.
    inner : whether a border between two classes counts once in its region's edges, as FRAGSTATS
        has it, or once for each of both classes, as the sum over pixels of Chen et al. 2016 reads.

    Raises
    ------
    LabelError
        Where there is no such form.
    """
    if form not in ("patton", "fragstats") or inner not in ("once", "twice"):
        raise LabelError(
            "no such index",
            got=f"{form}, {inner}",
            expected="patton or fragstats; once or twice",
        )
    pieces, quantum = found.pieces, found.quantum
    units = Units(
        row=pieces["row"],
        col=pieces["col"],
        region=pieces["region"].astype(np.int64),
        code=pieces["kind"].astype(np.int64),
        pixels=pieces["pixels"],
        area=_square_metres(pieces["area"], quantum),
        edges=pieces["edges"],
        lsi=_lsi(pieces["edges"], pieces["pixels"], form),
    )
    key = found.edges["region"].astype(np.int64) << 32 | found.edges["kind"]
    at = np.searchsorted(key, pieces["region"].astype(np.int64) << 32 | pieces["kind"])
    pixels = _sums(at, pieces["pixels"], len(key))
    area = _sums(at, pieces["area"], len(key))
    region = found.edges["region"].astype(np.int64)
    here = np.unique(region)
    of = np.searchsorted(here, region)
    whole_pixels, whole_area = _sums(of, pixels, len(here)), _sums(of, area, len(here))
    classes = Classes(
        region,
        found.edges["kind"].astype(np.int64),
        pixels,
        _square_metres(area, quantum),
        found.edges["edges"],
        _lsi(found.edges["edges"], pixels, form),
        area / whole_area[of],
    )
    total, outline = _sums(of, found.edges["edges"], len(here)), found.outline[here]
    edges = total if inner == "twice" else (total - outline) // 2 + outline
    regions = Regions(
        here,
        whole_pixels,
        _square_metres(whole_area, quantum),
        edges,
        _lsi(edges, whole_pixels, form),
    )
    return regions, classes, units


def uneven(areas: Sequence[float] | Floats) -> str | None:
    """A note where regions are of such unlike sizes that their indices cannot be compared.

    With edges as dense everywhere, LSI grows with the root of the area.
    """
    ratio = max(areas) / min(areas)
    if ratio <= 4:
        return None
    return (
        f"the largest region has {ratio:.0f} times the area of the smallest: LSI grows with the "
        "root of the area, so compare regions of like sizes, or normalise by area"
    )


def _sums(at: Ints, values: Ints, n: int) -> Ints:
    """Sums of values by place; exact, unlike bincount's."""
    found = np.zeros(n, np.int64)
    np.add.at(found, at, values)
    return found


def _square_metres(area: Ints, quantum: float) -> Floats:
    found: Floats = area.astype(np.float64) * quantum
    return found


def _lsi(edges: Ints, pixels: Ints, form: Form) -> Floats:
    if form == "patton":
        found: Floats = 0.25 * edges / np.sqrt(pixels)
        return found
    side = np.floor(np.sqrt(pixels)).astype(np.int64)
    side -= side**2 > pixels  # where the root was rounded up
    side += (side + 1) ** 2 <= pixels
    rest = pixels - side**2
    shortest = 4 * side + np.where(rest == 0, 0, np.where(rest <= side, 2, 4))
    ratio: Floats = edges / shortest
    return ratio
