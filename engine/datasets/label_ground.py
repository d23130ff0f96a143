"""What is known of a site's ground: figures for the rule, from a store's composite and features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely
from shapely.geometry.base import BaseGeometry

from engine.datasets.pictures import StoredImage
from engine.datasets.stored_ground import StoredGround
from engine.errors import LabelError
from engine.labels.rule import Figures
from engine.models.coding import decode_ground

__all__ = ["ROLES", "Measured", "Roles", "SiteGround", "find_roles", "index", "spacing_of"]

ROLES = (
    "building", "pervious", "impervious", "trees", "scrub", "low", "bare", "rock", "water",
    "industry",
)  # fmt: skip
"""Shares of the ground that the rule looks at; a feature's channel of such a name is taken."""

_HEIGHTS = ("height", "heights", "building", "buildings", "building_height", "building_heights")
_OSM = ("water", "building")  # what a share of 0 in OpenStreetMap says something of
_WALLS = 1.12
"""Sides of a pixel that one with a wall in it has of walls. A straight wall has pi / 4 of a side in
the mean over its places; pixels of 10 m hide those that are nearer to each other, and 1.12 is what
fits the synthetic cities (5 to 95 %: 0.56 to 1.36)."""
_PART = (0.02, 0.98)  # shares of buildings between which a pixel has a wall in it


@dataclass(frozen=True)
class Roles:
    """Which bands of features are what.

    Attributes
    ----------
    heights : feature of buildings' heights, None where there is none.
    shares : bands by role; several are added up.
    notes : how it was decided, one line each.
    """

    heights: str | None
    shares: Mapping[str, tuple[str, ...]]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Measured:
    """Figures of a site's ground.

    Attributes
    ----------
    figures : for the rule.
    imagery : share of the ground with imagery, 0 to 1.
    doubts : where sources contradict each other.
    """

    figures: Figures
    imagery: float
    doubts: tuple[str, ...]


def find_roles(
    features: Sequence[Any], names: Sequence[str], heights: str | None,
    use: Mapping[str, Sequence[str]],
) -> Roles:  # fmt: skip
    """Which bands of a recipe's features are heights of buildings, and shares of the ground.

    Parameters
    ----------
    features : section `features` of the recipe.
    names : of the store's bands of features.
    heights : feature of buildings' heights; by default one of kind `heights` that is called height
        or building.
    use : bands by role, before all that their names say.

    Raises
    ------
    LabelError
        Where a role or a band is not there, or two features say the same.
    """
    notes = []
    kinds = {feature.name: feature.kind for feature in features}
    tall = [name for name, kind in kinds.items() if kind == "heights"]
    if heights is None:
        found = [name for name in tall if name in _HEIGHTS]
        if len(found) > 1:
            raise LabelError("several features are heights of buildings", got=", ".join(found),
                             remedy="name one: --heights NAME")  # fmt: skip
        heights = found[0] if found else None
        if heights is None and tall:
            notes.append(
                f"{', '.join(tall)}: not taken as heights of buildings; --heights NAME takes it"
            )
    elif heights not in tall:
        raise LabelError("there is no such feature of heights", got=heights,
                         expected=", ".join(tall) or "a feature of kind: heights")  # fmt: skip
    if heights is not None and f"{heights}.mean" not in names:
        raise LabelError(f"heights need their mean: feature {heights}",
                         remedy="statistics: [mean, std, max]")  # fmt: skip
    if heights is not None:
        notes.append(f"heights of buildings: {heights}")
    shares: dict[str, tuple[str, ...]] = {}
    for role, bands in use.items():
        if role not in ROLES:
            raise LabelError("the rule does not look at that", got=role, expected=", ".join(ROLES))
        if missing := [band for band in bands if band not in names]:
            raise LabelError("there is no such band of features", got=", ".join(missing),
                             expected=", ".join(names) or "features: in the recipe")  # fmt: skip
        if whole := [b for b in bands if not _is_share(b, kinds)]:
            raise LabelError("the band is not a share of the ground", got=", ".join(whole),
                             expected="of kind classes, polygons, osm, or a share")  # fmt: skip
        if len(set(bands)) < len(bands) or not bands:
            raise LabelError(f"{role} names a band twice, or none", got=", ".join(bands))
        shares[role] = tuple(bands)
    for role in ROLES:
        own = [
            name for name in names
            if name.endswith(f".{role}") and _is_share(name, kinds)
            and (kinds[name.partition(".")[0]] != "osm" or role in _OSM)
        ]  # fmt: skip
        if role in use or not own:
            continue
        if len(own) > 1:
            raise LabelError(f"several features give the share of {role}", got=", ".join(own),
                             remedy=f"name one, or add up: --use {role}=BAND+BAND")  # fmt: skip
        shares[role] = tuple(own)
    notes += [f"{role}: {' + '.join(bands)}" for role, bands in shares.items()]
    return Roles(heights, shares, tuple(notes))


def _is_share(band: str, kinds: Mapping[str, str]) -> bool:
    name, _, channel = band.partition(".")
    kind = kinds.get(name)
    return channel != "known" and (
        kind in ("classes", "polygons", "osm") or (kind == "heights" and channel == "share")
    )


class SiteGround:
    """Figures of sites.

    Parameters
    ----------
    image : the composite.
    roles : of its store's features.
    """

    def __init__(self, image: StoredImage, roles: Roles) -> None:
        self._image, self._roles = image, roles
        self._ground = StoredGround(image.root)

    def measure(self, ground: BaseGeometry) -> Measured:
        """Figures of a polygon, over the pixels whose centre lies in it.

        Raises
        ------
        LabelError
            Where none does: it lies beyond the grid, or between centres.
        """
        west, south, east, north = self._image.bounds
        side = self._image.pixel
        left, bottom, right, top = ground.bounds
        rows = slice(max(int((north - top) // side), 0), int((north - bottom) // side) + 1)
        cols = slice(max(int((left - west) // side), 0), int((right - west) // side) + 1)
        rows = slice(rows.start, min(rows.stop, round((north - south) / side)))
        cols = slice(cols.start, min(cols.stop, round((east - west) / side)))
        if rows.start >= rows.stop or cols.start >= cols.stop:
            raise LabelError("a site lies beyond the map", got=ground.bounds)
        x, y = np.meshgrid(
            west + (np.arange(cols.start, cols.stop) + 0.5) * side,
            north - (np.arange(rows.start, rows.stop) + 0.5) * side,
        )
        shapely.prepare(ground)
        inside = shapely.contains_xy(ground, x, y)
        if not inside.any():
            raise LabelError("a site has no pixel of the map", got=ground.bounds)
        known: dict[str, float | None] = {}
        imagery = self._indices(rows, cols, inside, known)
        doubts: list[str] = []
        shares = {
            role: self._share(bands, rows, cols, inside) for role, bands in
            self._roles.shares.items()
        }  # fmt: skip
        known |= {role: None if s is None else _mean(s[inside]) for role, s in shares.items()}
        built = shares.get("building")
        built = self._heights(rows, cols, inside, known, built, doubts)
        if built is not None:
            known["spacing"] = spacing_of(built, inside, side)
        return Measured(Figures(**known), imagery, tuple(doubts))

    def _indices(
        self, rows: slice, cols: slice, inside: npt.NDArray[np.bool_],
        known: dict[str, float | None],
    ) -> float:  # fmt: skip
        """Indices, and the share of the ground with imagery."""
        names = self._image.names
        pairs = {"ndvi": ("B08", "B04"), "ndwi": ("B03", "B08")}
        wanted = [names[0], *(band for bands in pairs.values() for band in bands if band in names)]
        read = dict(zip(wanted, self._image.reflectance(rows, cols, wanted), strict=True))
        there = inside & ~np.isnan(read[names[0]])
        for name, (one, other) in pairs.items():
            if one in read and other in read:
                known[name] = _mean(index(read[one], read[other])[there])
        return float(there.sum() / inside.sum())

    def _share(
        self, bands: Sequence[str], rows: slice, cols: slice, inside: npt.NDArray[np.bool_]
    ) -> npt.NDArray[np.float32] | None:
        """Sum of shares (y, x), NaN where one is unknown; None where half the ground is so."""
        parts = self._read(bands, rows, cols)
        whole = np.clip(parts.sum(axis=0), 0, 1)  # classes of polygons may lie over each other
        return whole if (~np.isnan(whole[inside])).mean() >= 0.5 else None

    def _heights(
        self, rows: slice, cols: slice, inside: npt.NDArray[np.bool_],
        known: dict[str, float | None], built: npt.NDArray[np.float32] | None, doubts: list[str],
    ) -> npt.NDArray[np.float32] | None:  # fmt: skip
        """Figures of heights; the share of buildings (y, x) where one is known.

        A pixel's mean is over all of its ground that is known, buildings or not.
        """
        name = self._roles.heights
        if name is None:
            return built
        there, mean, share = self._read(
            [f"{name}.known", f"{name}.mean", f"{name}.share"], rows, cols
        )
        there = np.where(inside, np.nan_to_num(there), 0)
        mean, share = np.nan_to_num(mean), np.nan_to_num(share)
        area = float((there * share).sum())
        part = float(there.sum() / inside.sum())
        known["known"] = min(part, 1.0)
        if part >= 0.5:
            own = float(area / there.sum())
            if known.get("building") is None:
                known["building"] = min(own, 1.0)
                built = np.where(there > 0, share, np.nan).astype(np.float32)
            elif abs(own - known["building"]) > 0.1:  # type: ignore[operator]
                doubts.append(
                    f"buildings cover {known['building']:.0%}, but heights {own:.0%} of the ground"
                )
        if area * self._image.pixel**2 < 50.0:  # square metres: a shed tells no height
            return built
        height = float((there * mean).sum() / area)
        known["height"] = height
        if f"{name}.std" in self._ground.names:
            (spread,) = np.nan_to_num(self._read([f"{name}.std"], rows, cols))
            square = float((there * (mean**2 + spread**2)).sum() / area)
            known["spread"] = float(np.sqrt(max(square - height**2, 0.0)))
        if f"{name}.max" in self._ground.names:
            (most,) = np.nan_to_num(self._read([f"{name}.max"], rows, cols))
            known["tallest"] = float(most[inside].max())
        return built

    def _read(self, bands: Sequence[str], rows: slice, cols: slice) -> npt.NDArray[np.float32]:
        """Values of bands (band, y, x), NaN where they are unknown."""
        stored = self._ground.read(bands, rows, cols)
        ranges = self._ground.ranges_of(bands)
        return np.stack(
            [decode_ground(one, *ranges[band]) for one, band in zip(stored, bands, strict=True)]
        )


def index(one: npt.NDArray[np.float32], other: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Normalised difference of two reflectances, -1 to 1, those below 0 as 0; NaN of nothing."""
    a, b = np.maximum(one, 0), np.maximum(other, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        found: npt.NDArray[np.float32] = np.where(a + b > 0, (a - b) / (a + b), np.nan)
    return found.astype(np.float32)


def spacing_of(
    built: npt.NDArray[np.float32], inside: npt.NDArray[np.bool_], pixel: float
) -> float | None:
    """Mean width of the open ground between buildings, m; None without buildings.

    The mean chord of a plane cut by walls is pi x area / length of the walls (Cauchy). The length
    is estimated from the pixels that are built in part: see `_WALLS`.

    Parameters
    ----------
    built : share of buildings (y, x), 0 to 1, NaN where it is unknown.
    inside : the pixels that count.
    pixel : side in metres.
    """
    share = built[inside & ~np.isnan(built)]
    walls = _WALLS * pixel * ((share > _PART[0]) & (share < _PART[1])).sum()
    if walls == 0 or share.sum() == 0:
        return None
    return float(np.pi * (1 - share).sum() * pixel**2 / walls)


def _mean(values: npt.NDArray[np.float32]) -> float | None:
    there = values[~np.isnan(values)]
    return float(there.mean()) if len(there) else None
