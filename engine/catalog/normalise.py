"""From a catalogue's own item to the normal form: every decision about an item is made here."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit, urlunsplit

import shapely
from pyproj.exceptions import CRSError
from shapely.geometry import mapping, shape
from shapely.geometry.base import BaseGeometry

from engine.catalog.cards import SourceCard
from engine.catalog.forms import baseline_of, find_asset, form_of, offset_of
from engine.catalog.names import numbering_of
from engine.errors import ItemError, NatmapError
from engine.grid.area import reproject
from engine.items import BANDS, SCL, Asset, Item

__all__ = ["normalise", "strip_signature"]

_BEYOND = 0.05  # of a footprint's area; outlines of real items lie up to 1.2 % beyond their frame

_SIGNATURES = re.compile(
    r"(^|&)(sig|se|st|sp|sv|sr|spr|skoid|sktid|skt|ske|sks|skv|X-Amz-[^=]*|token|Expires|Signature|AWSAccessKeyId|Key-Pair-Id)=[^&]*"
)


def normalise(raw: Mapping[str, Any], card: SourceCard, base: str | None = None) -> Item:
    """Bring an item of STAC 1.0 betas, 1.0 or 1.1 into the normal form.

    Parameters
    ----------
    raw : the item's JSON.
    card : the source it comes from.
    base : address or path of the item's own file, for relative links.

    Raises
    ------
    ItemError
        Where it is no surface reflectance, has no usable asset, time or footprint.
    """
    name = str(raw.get("id", "without id"))
    properties = raw.get("properties") or {}
    _refuse_other_levels(name, raw, properties)
    notes: list[str] = []
    geometry, centroid = _footprint(name, raw, notes)
    baseline, numbers = baseline_of(properties), numbering_of(raw)
    assets: dict[str, Asset] = {}
    stamps: list[str] = []
    raw_assets, frames = raw.get("assets") or {}, _Frames(geometry, notes)
    for band in (*BANDS, SCL):
        found = find_asset(raw_assets, band, card, numbers)
        if found is None:
            continue
        asset, index = found
        href = strip_signature(_absolute(str(asset["href"]), base))
        form = form_of(asset, index)
        scale, offset = form["scale"], offset_of(card, properties, baseline, form)
        assets[band] = Asset(
            href=href,
            scale=1.0 if band == SCL else 1e-4 if scale is None else scale,
            offset=0.0 if band == SCL else offset,
            nodata=form["nodata"],
            index=index,
            **frames.claims(asset, properties),
            checksum=asset.get("file:checksum"),
            card_nodata=card.nodata,
            stated=band == SCL or card.offset != "asset" or scale is not None,
        )
        stamps.append(f"{band} {href} {assets[band].checksum or _file_stamp(href)}")
    if not set(assets) - {SCL}:
        raise ItemError(
            f"item {name} has no asset that can be used",
            got=", ".join(sorted(raw_assets)) or "no assets",
            expected=", ".join(card.assets.values()),
        )
    if SCL not in assets:
        notes.append("no scene classification: no cloud mask")
    stamp = json.dumps(
        [
            properties.get("s2:product_uri") or properties.get("sentinel:product_id"),
            properties.get("s2:generation_time") or properties.get("processing:datetime"),
            baseline,
            stamps,
        ]
    )
    west, south, east, north = _bbox(geometry)
    cloud, aside = properties.get("eo:cloud_cover"), properties.get("view:off_nadir")
    return Item(
        id=name,
        collection=str(raw.get("collection") or card.collection or card.name),
        source=card.name,
        datetime=_moment(name, properties),
        bbox=(west, south, east, north),
        geometry=json.loads(json.dumps(mapping(geometry))),
        centroid_lon=centroid,
        stamp=hashlib.blake2b(stamp.encode(), digest_size=16).hexdigest(),
        assets=assets,
        baseline=baseline,
        tile=_mgrs(name, properties),
        datatake=properties.get("s2:datatake_id") or properties.get("s2:datatake-id"),
        cloud_cover=None if cloud is None else float(cloud),
        off_nadir=None if aside is None else float(aside),
        notes=tuple(notes),
        licence=properties.get("license") or card.licence,
    )


def strip_signature(href: str) -> str:
    """An address without what signs it; other parts of its query stay."""
    parts = urlsplit(href)
    if not parts.query or parts.scheme not in ("http", "https"):
        return href
    query = _SIGNATURES.sub("", parts.query).lstrip("&")
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, query, ""))


# -- levels -----------------------------------------------------------------------------------


def _refuse_other_levels(name: str, raw: Mapping[str, Any], properties: Mapping[str, Any]) -> None:
    said = " ".join(
        str(v)
        for v in (
            raw.get("collection"),
            properties.get("s2:product_type"),
            properties.get("processing:level"),
            name,
        )
    ).upper()
    if re.search(r"L1C|MSI1C|\bL1\b", said):
        raise ItemError(
            f"item {name} is top-of-atmosphere (L1C)",
            got=raw.get("collection") or properties.get("s2:product_type"),
            expected="surface reflectance (L2A)",
            remedy="search the L2A collection",
        )


# -- places -----------------------------------------------------------------------------------


def _absolute(href: str, base: str | None) -> str:
    if urlsplit(href).scheme or href.startswith("/") or base is None:
        return href.removeprefix("file://")
    if urlsplit(base).scheme in ("http", "https"):
        return urljoin(base, href)
    return str((Path(base).parent / href).resolve())


def _file_stamp(href: str) -> str:
    path = Path(href)
    if urlsplit(href).scheme or not path.is_file():
        return ""
    found = path.stat()
    return f"{found.st_size} {found.st_mtime_ns}"


def _code(value: Any) -> str:
    return f"EPSG:{value}" if isinstance(value, int) or str(value).isdigit() else str(value)


class _Frames:
    """What an item claims of its files' frames, checked against its own footprint.

    Parameters
    ----------
    footprint : in degrees.
    notes : of the item.
    """

    def __init__(self, footprint: BaseGeometry, notes: list[str]) -> None:
        self._footprint = shapely.segmentize(footprint, 0.05)
        self._notes = notes
        self._known: dict[tuple[object, ...], bool] = {}

    def claims(self, *places: Mapping[str, Any]) -> dict[str, Any]:
        """crs, transform and shape as the projection extension says them, where they can be true.

        A frame that does not hold the footprint is not believed: the file knows.
        """

        def told(*names: str) -> Any:
            values = (place.get(name) for place in places for name in names)
            return next((value for value in values if value), None)

        crs, at, size = told("proj:code", "proj:epsg"), told("proj:transform"), told("proj:shape")
        found: dict[str, Any] = dict.fromkeys(("crs", "transform", "shape"))
        try:
            found["crs"] = None if crs is None else _code(crs)
            if at is not None:
                a, b, c, d, e, f = (float(value) for value in at[:6])
                found["transform"] = a, b, c, d, e, f
            if size is not None:
                height, width = (int(value) for value in size)
                found["shape"] = height, width
            if None not in found.values() and not self._holds(**found):
                raise ValueError
        except (TypeError, ValueError, IndexError, KeyError, OverflowError):
            note = "its proj: fields contradict its footprint, and are not believed"
            if note not in self._notes:
                self._notes.append(note)
            return dict.fromkeys(found)
        return found

    def _holds(self, crs: str, transform: tuple[float, ...], shape: tuple[int, int]) -> bool:
        """Whether a frame holds the footprint, but for a little; rotated files are not read."""
        a, b, c, d, e, f = transform
        height, width = shape
        if b or d or not a or not e:
            return False
        corners = [(0, 0), (width, 0), (width, height), (0, height)]
        ring = [(round(c + a * x, 6), round(f + e * y, 6)) for x, y in corners]
        key = crs, tuple(ring)  # bands of one frame have pixels of several sizes
        if key not in self._known:
            frame = shapely.Polygon(ring)
            self._known[key] = bool(frame.area) and self._beyond(frame, crs) <= _BEYOND
        return self._known[key]

    def _beyond(self, frame: BaseGeometry, crs: str) -> float:
        """Share of the footprint that lies outside of a frame."""
        try:
            there = shapely.make_valid(reproject(self._footprint, "EPSG:4326", crs))
        except (NatmapError, CRSError):
            return 1.0
        return float(1 - shapely.intersection(there, frame).area / there.area) if there.area else 0


def _footprint(name: str, raw: Mapping[str, Any], notes: list[str]) -> tuple[BaseGeometry, float]:
    """Footprint cut at the antimeridian, and its centroid's longitude."""
    try:
        geometry = shape(raw["geometry"])
    except (KeyError, TypeError, ValueError, AttributeError, shapely.errors.ShapelyError) as error:
        raise ItemError(f"item {name} has no footprint", got=raw.get("geometry")) from error
    if geometry.is_empty:
        raise ItemError(f"item {name} has an empty footprint", got=raw["geometry"])
    if not geometry.is_valid:
        geometry = shapely.make_valid(geometry)
        notes.append("footprint repaired")
    west, _, east, _ = geometry.bounds
    if east - west <= 180:
        return geometry, float(geometry.centroid.x)
    # Over 180 degrees wide: it crosses the antimeridian, cut already or written straight across.
    # Rolled to 0..360 it is one narrow piece.
    rolled = shapely.transform(geometry, _roll)
    rolled = rolled if rolled.is_valid else shapely.make_valid(rolled)
    east_part = shapely.intersection(rolled, shapely.box(0, -90, 180, 90))
    west_part = shapely.intersection(rolled, shapely.box(180, -90, 360, 90))
    cut = shapely.union(east_part, shapely.transform(west_part, lambda xy: xy - [360.0, 0.0]))
    centre = float(rolled.centroid.x)
    notes.append("footprint crosses the antimeridian")
    return cut, centre - 360.0 if centre > 180 else centre


def _roll(xy: Any) -> Any:
    rolled = xy.copy()
    rolled[:, 0] %= 360.0
    return rolled


def _bbox(geometry: BaseGeometry) -> tuple[float, float, float, float]:
    west, south, east, north = geometry.bounds
    if east - west <= 180:
        return west, south, east, north
    rolled = shapely.transform(geometry, _roll)
    left, _, right, _ = rolled.bounds
    return left, south, right - 360.0, north


# -- time and names ---------------------------------------------------------------------------


def _moment(name: str, properties: Mapping[str, Any]) -> datetime:
    text = properties.get("datetime") or properties.get("start_datetime")
    try:
        moment = datetime.fromisoformat(str(text))
    except ValueError as error:
        raise ItemError(f"item {name} has no time", got=text) from error
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def _mgrs(name: str, properties: Mapping[str, Any]) -> str | None:
    code = properties.get("grid:code") or properties.get("s2:mgrs_tile")
    if code:
        return str(code).removeprefix("MGRS-")
    for prefix in ("mgrs", "sentinel"):
        parts = [
            properties.get(f"{prefix}:{k}") for k in ("utm_zone", "latitude_band", "grid_square")
        ]
        if all(p is not None for p in parts):
            return "".join(str(p) for p in parts)
    match = re.search(r"_T?(\d{1,2}[C-X][A-Z]{2})_", f"_{name}_")
    return match[1] if match else None
