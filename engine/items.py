"""The normal form of a STAC item: what search makes and the reader reads.

Catalogues say the same thing in many ways (STAC betas, 1.0, 1.1; B02, blue, B02_10m; flags under
several names). ``catalog`` decides all of it once, so that nothing downstream looks at a
catalogue's own fields again.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import Any, Protocol, TypeAlias

from engine.errors import RecipeError

__all__ = [
    "BANDS",
    "PERIOD",
    "SCL",
    "Asset",
    "Item",
    "Sign",
    "band_name",
    "common_name",
    "cube_band",
    "is_ground",
    "of_period",
    "require_order",
    "unsigned",
]

SCL = "SCL"
"""Name of the scene classification layer among an item's assets."""

BANDS: dict[str, str] = {
    "B01": "coastal",
    "B02": "blue",
    "B03": "green",
    "B04": "red",
    "B05": "rededge1",
    "B06": "rededge2",
    "B07": "rededge3",
    "B08": "nir",
    "B8A": "nir08",
    "B09": "nir09",
    "B11": "swir16",
    "B12": "swir22",
}
"""Sentinel-2 bands of a surface reflectance product: B-name to common name."""

Moment: TypeAlias = datetime
"""Of a class that has a field of that name."""

_SENTINEL = re.compile(r"G?S[1-6][A-D]_")
"""What ids and datatakes of the Copernicus Sentinels begin with."""

_GROUND = re.compile(r"^[a-z][a-z0-9_]{0,30}\.[a-z][a-z0-9_]{0,30}$")

_COMMON = {common: name for name, common in BANDS.items()}


def band_name(name: str) -> str:
    """The B-name of a band given as ``B02`` or as ``blue``.

    Raises
    ------
    RecipeError
        Where the name is neither.
    """
    if name in BANDS:
        return name
    if name in _COMMON:
        return _COMMON[name]
    raise RecipeError(
        "unknown band",
        got=name,
        expected=f"one of {', '.join(BANDS)} or {', '.join(_COMMON)}",
    )


PERIOD = r"^[A-Za-z][A-Za-z0-9_]{0,31}$"
"""What a period of a cube may be called; one without a name goes by its number, from 1."""

_LABEL = re.compile(rf"{PERIOD}|^[1-9][0-9]{{0,2}}$")


def of_period(name: str) -> tuple[str, str | None]:
    """A cube's band as the band and its period: ``B04@summer`` is B04 of summer, ``B04`` of none.

    Raises
    ------
    RecipeError
        Where there is no such band, or what follows the @ is no period's name or number.
    """
    band, at, label = name.partition("@")
    if at and not _LABEL.fullmatch(label):
        raise RecipeError(
            "a band's period is not a name or a number",
            got=name,
            expected="BAND@NAME, as in B04@summer, or BAND@NUMBER, as in B04@1",
        )
    return band_name(band), label if at else None


def cube_band(name: str) -> str:
    """The B-name of a cube's band, with the period that it is of: ``red@summer`` is B04@summer.

    Raises
    ------
    RecipeError
        As of `of_period`.
    """
    band, label = of_period(name)
    return band if label is None else f"{band}@{label}"


def is_ground(name: str) -> bool:
    """Whether a band is of a feature of the ground, as in ``height.mean``, and not of imagery."""
    return _GROUND.match(name) is not None


def require_order(names: Sequence[str]) -> None:
    """Refuse bands of features that come before imagery's, or without their masks.

    Raises
    ------
    ValueError
    """
    ground = [is_ground(name) for name in names]
    if ground != sorted(ground):
        raise ValueError("bands: those of features come after those of imagery")
    wanted = {f"{name.partition('.')[0]}.known" for name in names if is_ground(name)}
    if lacking := sorted(wanted - set(names)):
        raise ValueError(f"bands: features go with their masks; add {', '.join(lacking)}")


def common_name(name: str) -> str:
    """The common name of a band given either way."""
    return BANDS[band_name(name)]


@dataclass(frozen=True, slots=True)
class Asset:
    """One band of an item in one file.

    Attributes
    ----------
    href : str
        Unsigned address or path; for the static catalogue already absolute.
    scale, offset : float
        Reflectance = DN * scale + offset, as decided by the source card's policy.
    nodata : float or None
        That the item declares; None where it declares none.
    card_nodata : float or None
        Of the source card, where item and file declare none.
    stated : bool
        Whether the item or its source's policy states scale and offset; else those of the file, if
        it has some, must be these.
    index : int
        Band in the file, from 1.
    crs, transform, shape
        What the item claims: "EPSG:n", the affine six (a, b, c, d, e, f) and (height, width);
        used only where the file itself has no georeference.
    checksum : str or None
        ``file:checksum``, if the item has it.
    media : str or None
        The type that the item declares; the file's first bytes decide.
    """

    href: str
    scale: float = 1e-4
    offset: float = 0.0
    nodata: float | None = 0.0
    index: int = 1
    crs: str | None = None
    transform: tuple[float, float, float, float, float, float] | None = None
    shape: tuple[int, int] | None = None
    checksum: str | None = None
    card_nodata: float | None = None
    stated: bool = True
    media: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for the snapshot."""
        return {name: getattr(self, name) for name in self.__slots__}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Asset:
        """Back from `to_dict`, also after JSON has made lists of tuples."""
        values = dict(values)
        for name in ("transform", "shape"):
            if values.get(name) is not None:
                values[name] = tuple(values[name])
        return cls(**values)


@dataclass(frozen=True, slots=True)
class Item:
    """One scene, decided.

    Attributes
    ----------
    id, collection, source : str
        `source` is the name of the source card.
    datetime : datetime
        Of acquisition, UTC, aware.
    bbox : (west, south, east, north)
        Degrees; west > east where the footprint crosses the antimeridian.
    geometry : dict
        GeoJSON footprint in degrees, cut at the antimeridian.
    centroid_lon : float
        Longitude of the footprint's centroid, -180..180.
    stamp : str
        Content stamp: product and generation time, baseline, checksums, unsigned addresses; for
        local files size and mtime. Never ``updated``.
    baseline, tile, datatake : str or None
        Processing baseline ("05.09"), MGRS tile ("33TWM"), datatake (of one overpass).
    cloud_cover : float or None
        Percent.
    off_nadir : float or None
        Degrees that the sensor looked aside.
    assets : dict of str to Asset
        By B-name, and ``SCL``.
    notes : tuple of str
        What had to be decided or repaired, for the report.
    suspect : bool or None
        True where the radiometry guard rejected it; None while undecided.
    licence, attribution, citation : str or None
        Under which terms it may be used, who is to be named, and how it is cited.
    link : str or None
        Public address of the item itself, where it has one that leads there from anywhere.
    end : datetime or None
        Where the item has a span of time in place of a moment, which `datetime` begins.
    strip : str or None
        When the sensing of its datastrip began ("20230501T100512"), the same after each processing.
    """

    id: str
    collection: str
    source: str
    datetime: datetime
    bbox: tuple[float, float, float, float]
    geometry: dict[str, Any]
    centroid_lon: float
    stamp: str
    assets: dict[str, Asset]
    baseline: str | None = None
    tile: str | None = None
    datatake: str | None = None
    cloud_cover: float | None = None
    off_nadir: float | None = None
    notes: tuple[str, ...] = field(default=())
    suspect: bool | None = None
    licence: str | None = None
    end: Moment | None = None
    strip: str | None = None
    attribution: str | None = None
    citation: str | None = None
    link: str | None = None

    @property
    def copernicus(self) -> bool:
        """Whether it holds data of the Copernicus Sentinels, which are to be credited.

        What is dedicated to the public domain does not: their licence asks for the credit.
        """
        if (self.licence or "").upper().startswith("CC0"):
            return False
        said = f"{self.licence} {self.collection} {self.attribution}".lower()
        return "sentinel" in said or bool(_SENTINEL.match(self.datatake or self.id))

    @property
    def solar_day(self) -> date:
        """The date of UTC + longitude / 15 h: one overpass is one day, wherever UTC turns."""
        return self._solar(self.datetime)

    @property
    def last_solar_day(self) -> date:
        """The day on which a span of time ends; of a moment, its own."""
        return self._solar(self.end or self.datetime)

    def _solar(self, moment: Moment) -> date:
        return (moment + timedelta(hours=self.centroid_lon / 15.0)).date()

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for the snapshot."""
        values = {name: getattr(self, name) for name in self.__slots__}
        values["datetime"] = self.datetime.isoformat()
        values["end"] = self.end and self.end.isoformat()
        values["assets"] = {name: asset.to_dict() for name, asset in self.assets.items()}
        values["bbox"], values["notes"] = list(self.bbox), list(self.notes)
        return values

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Item:
        """Back from `to_dict`."""
        values = dict(values)
        values["datetime"] = datetime.fromisoformat(values["datetime"])
        values["end"] = values.get("end") and datetime.fromisoformat(values["end"])
        values["assets"] = {n: Asset.from_dict(a) for n, a in values["assets"].items()}
        west, south, east, north = values["bbox"]
        values["bbox"], values["notes"] = (west, south, east, north), tuple(values["notes"])
        return cls(**values)


class Sign(Protocol):
    """Makes an unsigned address ready for reading; picklable, called just before each opening."""

    def __call__(self, href: str, *, again: bool = False) -> str:
        """The address to open; `again` after it failed: what was remembered may be at fault."""


def unsigned(href: str, *, again: bool = False) -> str:
    """The `Sign` of sources that anybody may read: the address as it is."""
    return href
