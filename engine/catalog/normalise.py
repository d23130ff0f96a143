"""From a catalogue's own item to the normal form: every decision about an item is made here."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from shapely.geometry import mapping

from engine.addresses import doubtful, dropped, public_address, resolve
from engine.catalog.cards import SourceCard
from engine.catalog.credits import credits_of
from engine.catalog.forms import (
    baseline_of,
    find_asset,
    form_of,
    is_stated,
    number_of,
    offset_of,
)
from engine.catalog.ground import Frames, footprint_of
from engine.catalog.names import numbering_of
from engine.errors import ItemError
from engine.items import BANDS, SCL, Asset, Item

__all__ = ["normalise"]

_STRIPS = ("s2:datastrip_id", "s2:datastrip-id", "eopf:datastrip_id", "sentinel:datastrip_id")
_TAKES = ("s2:datatake_id", "s2:datatake-id", "eopf:datatake_id")
_FIRST, _LAST = 1900, 2200  # years
_LEVELS = ("s2:product_type", "product:type", "processing:level", "landsat:correction")
_LEVEL_1 = re.compile(
    r"L1C|MSI1C|(?<![A-Z0-9])(?:C\d)?L(?:EVEL)?[-_ ]?1(?:[A-Z]{1,2})?(?![A-Z0-9])"
    r"|(?<![A-Z])TOA(?![A-Z])"
)
"""Level 1 in a field or collection: L1, L1C, L1TP, Level-1C, landsat-c2l1, S2MSI1C."""
_LEVEL_1_ID = re.compile(r"L1C|MSI1C|\bL1\b|(?<![A-Z0-9])L1(?:TP|GT|GS|T|G)(?![A-Z0-9])")
"""In an id, which may be a name that its maker chose."""


def normalise(
    raw: Mapping[str, Any],
    card: SourceCard,
    base: str | None = None,
    home: Path | None = None,
) -> Item:
    """Bring an item of STAC 1.0 betas, 1.0 or 1.1 into the normal form.

    Parameters
    ----------
    raw : the item's JSON.
    card : the source it comes from.
    base : address or path of the item's own file, for relative links.
    home : folder that moves together with the item's own file: files that the item names from
        there are the same ones wherever both lie.

    Raises
    ------
    ItemError
        Where it is no surface reflectance, has no usable asset, time or footprint.
    """
    name = str(raw["id"])
    properties = raw.get("properties") or {}
    _refuse_other_levels(name, raw, properties)
    notes: list[str] = []
    footprint = footprint_of(name, raw, notes)
    moment, end = _times(name, properties)
    baseline, numbers = baseline_of(properties, card, name), numbering_of(raw)
    assets: dict[str, Asset] = {}
    stamps: list[str] = []
    zarr: list[str] = []
    known: dict[int, dict[str, str]] = {}
    raw_assets, frames = raw.get("assets") or {}, Frames(footprint.geometry, notes)
    for band in (*BANDS, SCL):
        found = find_asset(raw_assets, band, card, numbers)
        if found is None:
            continue
        asset, index = found
        if _is_zarr(asset):
            zarr.append(band)
            continue
        others = known.setdefault(index, {})
        href = _address(name, resolve(str(asset["href"]), base), card.parameters, others, notes)
        form = form_of(asset, index)
        scale = form["scale"]
        assets[band] = Asset(
            href=href,
            scale=1.0 if band == SCL else 1e-4 if scale is None else scale,
            offset=0.0 if band == SCL else offset_of(card, properties, baseline, form),
            nodata=form["nodata"],
            index=index,
            **frames.claims(asset, properties),
            checksum=asset.get("file:checksum"),
            card_nodata=card.nodata,
            stated=band == SCL or is_stated(card, properties, form),
            media=asset.get("type"),
        )
        place = _seen_from(home, str(asset["href"]), href)
        stamps.append(f"{band} {place} {assets[band].checksum or _file_stamp(href)}")
    if not set(assets) - {SCL}:
        if zarr or any(_is_zarr(a) for a in raw_assets.values()):
            raise ItemError(
                f"the assets of item {name} are Zarr, which is not read",
                got=", ".join(sorted(raw_assets)),
                expected="a raster file for each band, or one of several bands",
                remedy="search a collection of GeoTIFF or JPEG 2000 files",
            )
        raise ItemError(
            f"item {name} has no asset that can be used",
            got=", ".join(sorted(raw_assets)) or "no assets",
            expected=", ".join(card.assets.values()),
            remedy="numbers mean the bands of Sentinel-2 and Landsat 8 and 9 alone: name its bands "
            "(common_name), or describe the source with a card of your own"
            if numbers is None
            else None,
        )
    assets = _apart(name, assets, card)
    if zarr:
        notes.append(f"Zarr, not read: {', '.join(zarr)}")
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
    cloud = _within(properties, "eo:cloud_cover", 0, 100, notes)
    aside = _within(properties, "view:off_nadir", -90, 90, notes)
    return Item(
        id=name,
        collection=str(raw.get("collection") or card.collection or card.name),
        source=card.name,
        datetime=moment,
        end=end,
        bbox=footprint.bounds,
        geometry=json.loads(json.dumps(mapping(footprint.geometry))),
        centroid_lon=footprint.centre,
        stamp=hashlib.blake2b(stamp.encode(), digest_size=16).hexdigest(),
        assets=assets,
        baseline=baseline,
        tile=_mgrs(name, properties),
        datatake=next((str(properties[key]) for key in _TAKES if properties.get(key)), None),
        strip=_sensing_start(properties),
        cloud_cover=cloud,
        off_nadir=aside,
        notes=tuple(notes),
        **credits_of(raw, card, base),
    )


def _within(
    properties: Mapping[str, Any], name: str, least: float, most: float, notes: list[str]
) -> float | None:
    """A number within limits; one beyond, such as -9999 for unknown, says nothing."""
    value = properties.get(name)
    if value is None:
        return None
    number = number_of(name, value)
    if least <= number <= most:
        return number
    notes.append(f"its {name} is not from {least:g} to {most:g}, and is not believed")
    return None


# -- levels -----------------------------------------------------------------------------------


def _refuse_other_levels(name: str, raw: Mapping[str, Any], properties: Mapping[str, Any]) -> None:
    said = {key: str(properties.get(key) or "").upper() for key in _LEVELS}
    said["collection"] = str(raw.get("collection") or "").upper()
    found = [f"{key} {value}" for key, value in said.items() if _LEVEL_1.search(value)]
    if re.fullmatch(r"1[A-Z]?", said["processing:level"]):
        found.append(f"processing:level {said['processing:level']}")
    if _LEVEL_1_ID.search(name.upper()):
        found.append(f"id {name}")
    if found:
        raise ItemError(
            f"item {name} is of level 1: top-of-atmosphere, or raw",
            got=", ".join(found)[:200],
            expected="surface reflectance (L2A, or Landsat's level 2)",
            remedy="search the collection of level 2",
        )


def _apart(name: str, assets: dict[str, Asset], card: SourceCard) -> dict[str, Asset]:
    """The assets, no two of which are one band of one file; a user's card says which of them is.

    Raises
    ------
    ItemError
        Where nothing says it.
    """
    listed = set(card.assets) if card.name != "own" else set[str]()
    found: dict[tuple[str, int], str] = {}
    for band, asset in assets.items():
        place = asset.href, asset.index
        other = found.setdefault(place, band)
        if other == band or (other in listed and band not in listed):
            continue
        if (other in listed) == (band in listed):
            raise ItemError(
                f"item {name} has {other} and {band} in one place",
                got=f"band {asset.index} of {asset.href}",
                expected="a band of its own in the file for each",
                remedy="name the file's bands in the item (bands or eo:bands), or their "
                "`positions` in a card of your own",
            )
        found[place] = band
    return {band: assets[band] for band in found.values()}


# -- addresses --------------------------------------------------------------------------------


def _is_zarr(asset: Any) -> bool:
    """Whether an asset is a Zarr group or array, by its media type or its address."""
    if not isinstance(asset, Mapping):
        return False
    path = urlsplit(str(asset.get("href"))).path.lower()
    return "zarr" in str(asset.get("type")).lower() or bool(re.search(r"\.zarr(/|\.zip|$)", path))


def _address(
    name: str, href: str, also: Collection[str], others: dict[str, str], notes: list[str]
) -> str:
    """An address as it is kept: without what signs it, and still of this one file.

    `others` are addresses of the same item's bands so far, as they are kept, with what they were.
    """
    kept = public_address(href, also)
    odd = doubtful(href, also)
    if not odd and others.setdefault(kept, href) != href:
        odd = sorted(dropped(href, also))
    if odd:
        raise ItemError(
            f"item {name} has an address whose parameters may say which file is meant",
            got=", ".join(odd),
            expected="an address without a query, or with parameters that are known",
            remedy="describe the source with a card of your own that lists those that do: "
            f"parameters: [{', '.join(odd)}]",
        )
    if "@" in href.partition("://")[2].split("/")[0]:
        note = "user and password of its addresses are not kept: ~/.netrc may have them"
        if note not in notes:
            notes.append(note)
    return kept


# -- places -----------------------------------------------------------------------------------


def _file_stamp(href: str) -> str:
    path = Path(href)
    if urlsplit(href).scheme or not path.is_file():
        return ""
    found = path.stat()
    return f"{found.st_size} {found.st_mtime_ns}"


def _seen_from(home: Path | None, said: str, href: str) -> str:
    """A file as its item's stamp has it: by its way from `home`, if the item says such a one."""
    if home is None or "://" in said or os.path.isabs(said):
        return href
    return os.path.relpath(href, home)


# -- time and names ---------------------------------------------------------------------------


def _times(name: str, properties: Mapping[str, Any]) -> tuple[datetime, datetime | None]:
    """Moment of acquisition, and its end where the item has a span of time and no moment."""
    said = properties.get("datetime")
    if said:
        return _moment(name, said), None
    begin = _moment(name, properties.get("start_datetime"))
    end = properties.get("end_datetime")
    return begin, _moment(name, end) if end else None


def _moment(name: str, text: Any) -> datetime:
    try:
        moment = text if isinstance(text, datetime) else _parsed(str(text))
        moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise ItemError(f"item {name} has no time", got=text) from error
    if not _FIRST <= moment.year <= _LAST:
        raise ItemError(f"item {name} has no time", got=text, expected=f"{_FIRST} to {_LAST}")
    return moment


def _parsed(text: str) -> datetime:
    """A moment; a leap second, which Python has not, is the one before."""
    return datetime.fromisoformat(re.sub(r"(:\d\d):60(?!\d)", r"\1:59", text.upper()))


def _sensing_start(properties: Mapping[str, Any]) -> str | None:
    """When the sensing of the item's datastrip began, as its id says it.

    The id itself changes with each processing.
    """
    for name in _STRIPS:
        match = re.search(r"_S(\d{8}T\d{6})", str(properties.get(name) or ""))
        if match:
            return match[1]
    return None


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
