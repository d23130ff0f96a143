"""An item of anybody's catalogue, decided or refused: nothing that it holds may end a search."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import shapely
from pyproj import CRS
from pyproj.exceptions import CRSError
from shapely.geometry import shape

from engine.addresses import host_of, is_http, public
from engine.catalog.cards import SourceCard
from engine.catalog.normalise import normalise
from engine.catalog.origin import origin_of
from engine.errors import ItemError
from engine.items import BANDS, SCL, Asset, Item
from engine.web import private_at

__all__ = ["Origin", "decide", "spoken"]

_LONGEST = 500  # characters of a name
_CREDITS = ("licence", "attribution", "citation", "link")
_WIDEST = 10_000_000  # pixels along a side; the largest rasters of the Earth at 1 m are smaller


class Origin:
    """Where a document of a catalogue lies, and what its items may therefore name.

    Items of a document of this machine may name whatever its user can read. Those of a remote one
    may name addresses of http and https, and of the schemes of their source card; of private hosts
    only those that are listed.

    Parameters
    ----------
    place : address or path of the document.
    hosts : hosts that may be private.
    schemes : besides http and https.
    home : folder that the document moves with, None where it lies by itself.
    """

    def __init__(
        self,
        place: str,
        hosts: frozenset[str],
        schemes: frozenset[str],
        home: Path | None = None,
    ) -> None:
        self.place, self.home = place, home
        self._hosts, self._schemes = hosts, schemes

    @property
    def remote(self) -> bool:
        """Whether it came from a web server."""
        return is_http(self.place)

    def require(self, href: str, what: str) -> None:
        """Refuse an address that an item of here may not name.

        Raises
        ------
        ItemError
        """
        if not self.remote:
            return
        if not is_http(href):
            scheme = urlsplit(href).scheme
            if scheme in self._schemes and "://" in href:
                return
            raise ItemError(
                f"{what} is not an address that a remote catalogue may name",
                got=f"a {scheme} address" if "://" in href and scheme != "file" else "a local file",
                expected=", ".join(["http", "https", *sorted(self._schemes)]),
                remedy="keep a copy of the catalogue on this machine if its items are trusted, or "
                "describe the source with a card that names its `signing`",
            )
        host = host_of(href)
        if not host:
            raise ItemError(f"{what} has an address without a host")
        if host not in self._hosts and (address := private_at(host)):
            raise ItemError(
                f"{what} is at a private address, {host} ({address})",
                expected="a public host, that of the catalogue, or one that the recipe allows",
                remedy=f"`allow_hosts: [{host}]` beside `catalog` allows it",
            )


def decide(raw: Any, card: SourceCard, origin: Origin) -> Item:
    """An item in the normal form; one of natmap's own snapshots is in it already.

    Raises
    ------
    ItemError
        Whatever is wrong with it.
    """
    if isinstance(raw, Exception):
        raise ItemError(spoken(raw))
    if not isinstance(raw, Mapping):
        raise ItemError("not an item", got=type(raw).__name__, expected="a JSON object")
    if raw.get("id") in (None, "") or not isinstance(raw["id"], str | int):
        raise ItemError("an item without an id cannot be told from others", got=raw.get("id"))
    name = spoken(raw["id"])
    try:
        properties = raw.get("properties")
        own = properties.get("natmap:item") if isinstance(properties, Mapping) else None
        source = origin_of(raw, card)
        item = _own(raw, own) if own else normalise(raw, source, origin.place, origin.home)
        _check(item)
        for band, asset in item.assets.items():
            origin.require(asset.href, f"{band} of item {name}")
    except ItemError:
        raise
    except RecursionError as error:
        raise ItemError(f"item {name} is nested too deep") from error
    except Exception as error:  # of values of every type, in every field
        said = spoken(f"{type(error).__name__}: {error}")
        raise ItemError(f"item {name} is malformed ({said})") from error
    return item


def _own(raw: Mapping[str, Any], text: Any) -> Item:
    """The normal form that natmap wrote beside an item."""
    item = Item.from_dict(json.loads(text))
    said = str(raw.get("id")), str(raw.get("collection"))
    if (item.id, item.collection) != said:
        raise ItemError(
            f"item {spoken(said[0])} has the normal form of another",
            got=spoken(item.id),
            expected=spoken(said[0]),
        )
    return item


def spoken(text: Any) -> str:
    """Text of anybody's as one short line, without what addresses in it keep secret."""
    line = "".join(c if c.isprintable() else " " for c in public(str(text)[:_LONGEST]))
    return line if len(line) <= 200 else f"{line[:200]}…"


def _check(item: Item) -> None:
    """Every value is of its type, finite and possible."""
    for field in ("id", "collection", "source", "stamp"):
        _require(item, field, lambda v: isinstance(v, str) and 0 < len(v) <= _LONGEST)
    for field in ("id", "collection", "source"):
        _require(item, field, str.isprintable)
    for field in ("baseline", "tile", "datatake", "strip"):
        _require(item, field, lambda v: v is None or (isinstance(v, str) and v.isprintable()))
    for field in _CREDITS:
        _require(item, field, lambda v: v is None or (isinstance(v, str) and _is_text(v)))
    _require(item, "datetime", _is_moment)
    _require(item, "end", lambda v: v is None or _is_moment(v))
    if item.end is not None and item.end < item.datetime:
        raise ItemError(f"item {item.id} ends before it begins", got=f"{item.datetime}/{item.end}")
    _require(item, "bbox", lambda v: len(v) == 4 and all(map(_is_finite, v)))
    _require(item, "centroid_lon", lambda v: _is_finite(v) and -180 <= v <= 180)
    _require(item, "cloud_cover", lambda v: v is None or _is_finite(v))
    _require(item, "off_nadir", lambda v: v is None or _is_finite(v))
    _require(item, "suspect", lambda v: v is None or isinstance(v, bool))
    _require(item, "notes", lambda v: all(isinstance(note, str) for note in v))
    geometry = shape(item.geometry)
    xy = shapely.get_coordinates(geometry)
    if not (geometry.area > 0 and np.isfinite(xy).all() and (np.abs(xy) <= (180, 90)).all()):
        raise ItemError(f"item {item.id} has no footprint in degrees", got=geometry.geom_type)
    for band, asset in item.assets.items():
        if band != SCL and band not in BANDS:
            raise ItemError(f"item {item.id} has an unknown band", got=spoken(band))
        _check_asset(f"{band} of {item.id}", asset)


def _check_asset(what: str, asset: Asset) -> None:
    def require(field: str, holds: Callable[[Any], bool]) -> None:
        _require(asset, field, holds, what)

    require("href", lambda v: isinstance(v, str) and len(v) > 0 and v.isprintable())
    require("scale", lambda v: _is_finite(v) and v != 0)
    require("offset", _is_finite)
    require("nodata", lambda v: v is None or _is_number(v))
    require("index", lambda v: isinstance(v, int) and v >= 1)
    require("checksum", lambda v: v is None or (isinstance(v, str) and v.isprintable()))
    require("media", lambda v: v is None or (isinstance(v, str) and len(v) <= _LONGEST))
    require("crs", lambda v: v is None or _is_crs(v))
    require("shape", lambda v: v is None or (len(v) == 2 and all(map(_is_side, v))))
    require("transform", lambda v: v is None or (len(v) == 6 and all(map(_is_finite, v))))


def _require(
    holder: Item | Asset, field: str, holds: Callable[[Any], bool], what: str | None = None
) -> None:
    value = getattr(holder, field)
    try:
        right = holds(value)
    except (TypeError, ValueError):
        right = False
    if not right:
        what = what or f"item {spoken(getattr(holder, 'id', ''))}"
        raise ItemError(f"{what} has a {field} that cannot be ({spoken(repr(value))})")


def _is_text(value: str) -> bool:
    """Words of people, perhaps in several lines."""
    return re.sub(r"[\n\r\t]", "", value).isprintable()


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_finite(value: Any) -> bool:
    return _is_number(value) and math.isfinite(value)


def _is_side(value: Any) -> bool:
    return isinstance(value, int) and 0 < value <= _WIDEST


def _is_moment(value: Any) -> bool:
    return isinstance(value, datetime) and value.tzinfo is not None and 1900 <= value.year <= 2200


@lru_cache(maxsize=4096)
def _is_crs(text: str) -> bool:
    try:
        CRS.from_user_input(text)
    except CRSError:
        return False
    return True
