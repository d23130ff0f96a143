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
from shapely.geometry import mapping, shape
from shapely.geometry.base import BaseGeometry

from engine.catalog.cards import SourceCard
from engine.errors import ItemError
from engine.items import BANDS, SCL, Asset, Item

__all__ = ["normalise", "strip_signature"]

_FLAGS = ("earthsearch:boa_offset_applied", "sentinel:boa_offset_applied")
_BASELINES = ("s2:processing_baseline", "sentinel:processing_baseline", "processing:version")
_SHIFT = -0.1  # BOA_ADD_OFFSET of baseline 04.00 and later, as reflectance
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
    baseline = _baseline(properties)
    assets: dict[str, Asset] = {}
    stamps: list[str] = []
    raw_assets = raw.get("assets") or {}
    for band in (*BANDS, SCL):
        found = _find_asset(raw_assets, band, card)
        if found is None:
            continue
        href = strip_signature(_absolute(str(found["href"]), base))
        form = _band_form(found)
        crs = found.get("proj:code") or found.get("proj:epsg")
        crs = crs or properties.get("proj:code") or properties.get("proj:epsg")
        transform = found.get("proj:transform") or properties.get("proj:transform")
        size = found.get("proj:shape") or properties.get("proj:shape")
        nodata = form.get("nodata", card.nodata)
        assets[band] = Asset(
            href=href,
            scale=float(form.get("scale", 1e-4)) if band != SCL else 1.0,
            offset=_offset(card, properties, baseline, form) if band != SCL else 0.0,
            nodata=None if nodata is None else float(nodata),
            index=int(found.get("natmap:band", card.positions.get(band, 1))),
            crs=None if crs is None else _code(crs),
            transform=tuple(float(v) for v in transform[:6]) if transform else None,  # type: ignore[arg-type]
            shape=(int(size[0]), int(size[1])) if size else None,
            checksum=found.get("file:checksum"),
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


# -- radiometry -------------------------------------------------------------------------------


def _offset(
    card: SourceCard, properties: Mapping[str, Any], baseline: str | None, form: Mapping[str, Any]
) -> float:
    """The offset that is still to be added, by the card's policy; never by the date."""
    applied = next((properties[f] for f in _FLAGS if properties.get(f) is not None), None)
    own = float(form.get("offset") or 0.0)
    late = baseline is not None and float(baseline) >= 4.0
    match card.offset:
        case "flag-then-baseline":
            return 0.0 if applied or not late else _SHIFT
        case "flag-then-asset":
            return 0.0 if applied else own
        case "baseline":
            return _SHIFT if late else 0.0
        case "asset-from-baseline":
            return own if baseline is None or late else 0.0
        case "asset":
            return own


def _baseline(properties: Mapping[str, Any]) -> str | None:
    for name in _BASELINES:
        match = re.fullmatch(r"\D*(\d{2})\.?(\d{2})\D*", str(properties.get(name) or ""))
        if match:
            return f"{match[1]}.{match[2]}"
    return None


def _band_form(asset: Mapping[str, Any]) -> dict[str, Any]:
    """scale, offset and nodata of an asset, as raster:bands (1.0) or bands (1.1) say them."""
    form: dict[str, Any] = {}
    old = (asset.get("raster:bands") or [{}])[0]
    new = (asset.get("bands") or [{}])[0]
    for key in ("scale", "offset", "nodata"):
        for value in (
            old.get(key),
            new.get(f"raster:{key}"),
            asset.get(f"raster:{key}"),
            new.get(key),
            asset.get(key),
        ):
            if value is not None:
                form[key] = value
                break
    if form.get("nodata") in ("nan", "inf", "-inf"):
        form["nodata"] = float(form["nodata"])
    return form


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


def _find_asset(assets: Mapping[str, Any], band: str, card: SourceCard) -> Mapping[str, Any] | None:
    keys = [card.assets.get(band), band, BANDS.get(band, "scl"), band.lower()]
    for key in keys:
        if key and isinstance(assets.get(key), Mapping) and assets[key].get("href"):
            found: Mapping[str, Any] = assets[key]
            return found
    return None


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
