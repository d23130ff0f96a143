"""One search per run: a STAC API, a static catalogue, or stac-geoparquet; one answer."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import duckdb
import requests
import shapely
from pystac_client import Client
from pystac_client.exceptions import APIError
from pystac_client.stac_api_io import StacApiIO
from requests.adapters import HTTPAdapter
from shapely.geometry import shape
from urllib3 import Retry

from engine.catalog.cards import SourceCard, load_source_card
from engine.catalog.normalise import normalise
from engine.catalog.origin import origin_of
from engine.errors import CatalogError, ItemError
from engine.grid.area import Area
from engine.items import BANDS, SCL, Item
from engine.recipes.sections import Imagery

__all__ = ["SearchResult", "find_source", "search"]

_TIMEOUT = (15, 60)  # seconds to connect, to answer
_MOST = 2_000_000  # items; a catalogue that never ends is a loop
_SENTINEL = re.compile(r"S2[A-D]_")
"""What an id begins with; items of early catalogues say neither datatake nor baseline."""


@dataclass(frozen=True)
class SearchResult:
    """What a search found.

    Attributes
    ----------
    items : by id.
    left_out : (id, reason) of items that were found and cannot be used.
    duplicates : how many older versions of a scene were dropped.
    """

    items: tuple[Item, ...]
    left_out: tuple[tuple[str, str], ...]
    duplicates: int


def find_source(imagery: Imagery, base: Path | None = None) -> tuple[SourceCard, str]:
    """The card of a recipe's catalogue and where it lies: an address, or a path.

    `imagery.catalog` is a card's name, or the path or address of a catalogue of one's own; then
    bands go by their names, and the item or its asset says the offset.
    """
    text = imagery.catalog
    path = (base or Path()) / text
    if text.startswith(("http://", "https://")) or (
        path.exists() and path.suffix not in (".yaml", ".yml")
    ):
        where = text if "://" in text else str(path)
        return _own_card(where, imagery.collection), where
    own = path.suffix in (".yaml", ".yml")
    card = load_source_card(str(path) if own else text)
    if card.api is None:
        raise CatalogError("the card names no api", got=card.name)
    return card, card.api if "://" in card.api else str(path.parent / card.api)


def _own_card(where: str, collection: str | None) -> SourceCard:
    assets = {**{name: name for name in BANDS}, SCL: SCL}
    return SourceCard(
        name="own",
        title=where,
        licence="licence not stated",
        collection=collection,
        offset="flag-then-asset",
        assets=assets,
    )


def search(
    card: SourceCard, where: str, area: Area, imagery: Imagery, bands: Sequence[str]
) -> SearchResult:
    """Find the items of an area and period, decided and without duplicates.

    Parameters
    ----------
    card, where : from `find_source`.
    area : Area
    imagery : Imagery
        Period (solar days) and cloud cover; items that do not say their cloud cover are kept.
    bands : B-names that an item must have.

    Raises
    ------
    CatalogError
        Where the catalogue does not answer as one should, or finds nothing.
    """
    if where.endswith(".parquet"):
        raws: Iterable[tuple[dict[str, Any], str | None]] = _from_parquet(where, area, imagery)
    elif _is_api(where):
        raws = _from_api(where, card.collection or imagery.collection, area, imagery)
    else:
        raws = _from_static(where)
    items: dict[str, Item] = {}
    left_out: list[tuple[str, str]] = []
    seen = 0
    footprint = area.geographic
    shapely.prepare(footprint)
    for raw, base in raws:
        seen += 1
        try:
            own = (raw.get("properties") or {}).get("natmap:item")
            # a snapshot of natmap's is a catalogue too, and its items are decided already
            item = (
                Item.from_dict(json.loads(own))
                if own
                else normalise(raw, origin_of(raw, card), base)
            )
        except ItemError as error:
            left_out.append((str(raw.get("id")), error.what))
            continue
        missing = [band for band in bands if band not in item.assets]
        if missing:
            left_out.append((item.id, f"has no {', '.join(missing)}"))
        elif _wanted(item, imagery) and footprint.intersects(shape(item.geometry)):
            items[item.id] = item
    kept, dropped = _newest(items.values())
    if not kept:
        raise CatalogError(
            "the search found nothing",
            got=f"{seen} items looked at, {len(left_out)} unusable"
            + (f" ({left_out[0][0]}: {left_out[0][1]})" if left_out else ""),
            expected=f"items over the area {tuple(round(b, 2) for b in footprint.bounds)} "
            f"in {imagery.period}, cloud cover up to {imagery.max_cloud_cover:g} %",
            remedy="look at area, imagery.period and imagery.max_cloud_cover; "
            "the area may lie outside the catalogue",
        )
    return SearchResult(
        tuple(sorted(kept, key=lambda item: item.id)), tuple(sorted(left_out)), dropped
    )


def _wanted(item: Item, imagery: Imagery) -> bool:
    clear = item.cloud_cover is None or item.cloud_cover <= imagery.max_cloud_cover
    return clear and imagery.period.first <= item.solar_day <= imagery.period.last


def _newest(items: Iterable[Item]) -> tuple[list[Item], int]:
    """One item per tile and datatake: newest baseline, then generation, by product name.

    Of Sentinel products only: frames of others may lie in one square and be of one minute, as all
    are that are known by their date alone.
    """
    best: dict[object, Item] = {}
    count = 0
    for item in items:
        count += 1
        take = _take(item)
        key = (item.tile, take) if item.tile and _is_sentinel(item) else item.id
        other = best.get(key)
        if other is None or _age(item) > _age(other):
            best[key] = item
    return list(best.values()), count - len(best)


def _is_sentinel(item: Item) -> bool:
    return bool(item.datatake or item.baseline or _SENTINEL.match(item.id))


def _take(item: Item) -> str:
    # The datatake's last part is the baseline; the overpass is what comes before it.
    return (item.datatake or item.datetime.strftime("%Y%m%dT%H%M")).rpartition("_N")[0] or (
        item.datatake or item.datetime.strftime("%Y%m%dT%H%M")
    )


def _age(item: Item) -> tuple[str, str]:
    return item.baseline or "", item.id


# -- a STAC API -------------------------------------------------------------------------------


def _retry() -> Retry:
    return Retry(
        total=6,
        backoff_factor=0.3,
        backoff_jitter=0.3,
        status_forcelist=[429, 500, 502, 503, 504],
        allowed_methods=None,
        respect_retry_after_header=True,
    )


def _session() -> requests.Session:
    session = requests.Session()
    for scheme in ("http://", "https://"):
        session.mount(scheme, HTTPAdapter(max_retries=_retry()))
    return session


def _is_api(where: str) -> bool:
    if not where.startswith(("http://", "https://")) or where.endswith(".json"):
        return False
    root = _fetch(_session(), where)
    return any("item-search" in str(c) for c in root.get("conformsTo") or [])


def _from_api(
    where: str, collection: str | None, area: Area, imagery: Imagery
) -> Iterator[tuple[dict[str, Any], str | None]]:
    first = datetime.combine(imagery.period.first - timedelta(days=1), time(), UTC)
    last = datetime.combine(imagery.period.last + timedelta(days=2), time(), UTC)
    pages: set[str] = set()
    count = 0
    try:
        client = Client.open(where, stac_io=StacApiIO(max_retries=_retry(), timeout=_TIMEOUT))
        found = client.search(
            collections=[collection] if collection else None,
            intersects=_simple(area),
            datetime=[first, last],
            limit=100,
        )
        for page in found.pages_as_dicts():
            ids = [feature.get("id") for feature in page.get("features", [])]
            print_of_page = json.dumps(ids)
            if ids and print_of_page in pages:
                raise CatalogError(
                    "the catalogue's paging goes round in a circle",
                    got=f"the page that begins with {ids[0]} came twice",
                    remedy="report it to the catalogue; a smaller area or period may avoid it",
                )
            pages.add(print_of_page)
            count += len(ids)
            if count > _MOST:
                raise CatalogError("the search does not end", got=f"{count} items")
            for feature in page.get("features", []):
                yield feature, where
    except CatalogError:
        raise
    except (APIError, requests.RequestException, ValueError, KeyError, TypeError) as error:
        raise CatalogError(
            "the catalogue does not answer as a STAC API should",
            got=f"{where}: {type(error).__name__}: {str(error)[:200]}",
            remedy="look at the address in a browser; a page of HTML or a login is not a catalogue",
        ) from error


def _simple(area: Area) -> dict[str, Any]:
    """A footprint small enough for a request; the exact test is made on what comes back."""
    hull = area.geographic
    if shapely.get_num_coordinates(hull) > 500:
        hull = shapely.simplify(shapely.buffer(hull, 0.02), 0.01)
    if shapely.get_num_coordinates(hull) > 500:
        hull = shapely.envelope(hull)
    found: dict[str, Any] = json.loads(shapely.to_geojson(hull))
    return found


# -- a static catalogue -----------------------------------------------------------------------


def _from_static(where: str) -> Iterator[tuple[dict[str, Any], str | None]]:
    root = str(Path(where) / "catalog.json") if Path(where).is_dir() else where
    session, waiting, seen = _session(), [root], {root}
    while waiting:
        place = waiting.pop()
        value = _fetch(session, place)
        kind = value.get("type")
        if kind == "Feature":
            yield value, place
        elif kind == "FeatureCollection":
            for feature in value.get("features", []):
                yield feature, place
        elif kind in ("Catalog", "Collection") or "links" in value:
            links = [
                link
                for link in value.get("links", [])
                if link.get("rel") in ("child", "item", "items")
            ]
            for link in reversed(links):
                target = _join(place, str(link.get("href")))
                if target not in seen:
                    seen.add(target)
                    waiting.append(target)
        else:
            raise CatalogError("not a STAC document", got=place, expected="catalog or item")


def _join(place: str, href: str) -> str:
    if urlsplit(place).scheme in ("http", "https") or urlsplit(href).scheme:
        return urljoin(place, href)
    return str((Path(place).parent / href).resolve())


def _fetch(session: requests.Session, place: str) -> dict[str, Any]:
    try:
        if place.startswith(("http://", "https://")):
            answer = session.get(place, timeout=_TIMEOUT)
            answer.raise_for_status()
            value = answer.json()
        else:
            value = json.loads(Path(place).read_text(encoding="utf-8"))
    except (OSError, ValueError, requests.RequestException) as error:
        raise CatalogError(
            "a document of the catalogue cannot be read",
            got=f"{place}: {type(error).__name__}: {str(error)[:200]}",
            expected="JSON",
        ) from error
    if not isinstance(value, dict):
        raise CatalogError("a document of the catalogue is not STAC", got=place)
    return value


# -- stac-geoparquet --------------------------------------------------------------------------


def _from_parquet(
    where: str, area: Area, imagery: Imagery
) -> Iterator[tuple[dict[str, Any], str | None]]:
    import pyarrow as pa
    import stac_geoparquet.arrow

    first = datetime.combine(imagery.period.first - timedelta(days=1), time(), UTC)
    last = datetime.combine(imagery.period.last + timedelta(days=2), time(), UTC)
    _, south, _, north = area.geographic.bounds
    try:
        with duckdb.connect() as db:
            db.execute("SET TimeZone = 'UTC'")
            table = db.execute(
                # Latitude and time in SQL; longitude, which may wrap, by the exact test.
                "SELECT * FROM read_parquet(?) WHERE datetime BETWEEN ? AND ? "
                "AND bbox.ymin <= ? AND bbox.ymax >= ?",
                [where, first, last, north, south],
            ).to_arrow_table()
    except duckdb.Error as error:
        raise CatalogError(
            "the stac-geoparquet file cannot be searched",
            got=f"{where}: {str(error)[:200]}",
            expected="rows of STAC items with datetime and bbox",
        ) from error
    index = table.schema.get_field_index("geometry")
    geometry = table.column(index)
    if pa.types.is_binary(geometry.type) or pa.types.is_large_binary(geometry.type):
        field = pa.field(
            "geometry", pa.binary(), metadata={b"ARROW:extension:name": b"geoarrow.wkb"}
        )
        table = table.set_column(index, field, geometry.cast(pa.binary()))
    for item in stac_geoparquet.arrow.stac_table_to_items(table):
        yield item, where
