"""One search per run: a STAC API, a static catalogue, or stac-geoparquet; one answer."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import shapely
from shapely.geometry import shape
from shapely.geometry.base import BaseGeometry

from engine.addresses import host_of, is_http, resolve
from engine.catalog.api import from_api, is_api
from engine.catalog.cards import SourceCard, card_names, load_source_card
from engine.catalog.checks import Origin, decide, spoken
from engine.catalog.documents import Documents
from engine.catalog.geoparquet import from_geoparquet
from engine.catalog.static import from_static
from engine.catalog.versions import newest
from engine.errors import AreaError, CatalogError, ItemError
from engine.grid.area import Area, reproject
from engine.items import BANDS, SCL, Item
from engine.recipes.periods import CubePeriod
from engine.recipes.sections import Imagery, Period

__all__ = ["SearchResult", "find_source", "open_hosts", "search"]

_CATALOGUES = (".json", ".geojson", ".parquet", ".geoparquet", ".pq")
_SCHEMES = {"s3": frozenset({"s3"})}
"""Addresses beside http and https that a card's signing makes ready for reading."""


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

    Raises
    ------
    CatalogError
        Where there is no such catalogue, or its card has another collection than the recipe asks
        for.
    CardError
        Where there is no such card, or it is wrong.
    """
    text = imagery.catalog
    if is_http(text):
        return _own_card(text, imagery.collection), text
    if "://" in text and not text.lower().startswith("file://"):
        raise CatalogError(
            "a catalogue is not read from such an address",
            got=text,
            expected="a card's name, a path, or an address of http or https",
        )
    path = (base or Path()) / (resolve(text, None) if "://" in text else text)
    own = path.suffix in (".yaml", ".yml")
    if not own and path.exists():
        return _own_card(str(path), imagery.collection), str(path)
    if not own and text not in card_names("sources") and _is_path(text):
        raise CatalogError(
            "the catalogue does not exist",
            got=f"no such file: {path.absolute()}",
            expected=f"a file, a folder, or the name of a card: {', '.join(card_names('sources'))}",
            remedy="paths of a recipe are taken from its own folder",
        )
    card = load_source_card(str(path) if own else text)
    if card.api is None:
        raise CatalogError("the card names no api", got=card.name)
    if card.collection and imagery.collection and card.collection != imagery.collection:
        raise CatalogError(
            "the card is of another collection than the recipe asks for",
            got=f"collection: {imagery.collection}",
            expected=f"{card.collection}, that of {card.name}",
            remedy="leave it out, or describe the other collection with a card of its own",
        )
    return card, card.api if "://" in card.api else str(path.parent / card.api)


def _is_path(text: str) -> bool:
    return "/" in text or "\\" in text or text.lower().endswith(_CATALOGUES)


def _own_card(where: str, collection: str | None) -> SourceCard:
    assets = {**{name: name for name in BANDS}, SCL: SCL}
    return SourceCard(
        name="own",
        title=where,
        licence="not stated",
        collection=collection,
        offset="flag-then-asset",
        assets=assets,
    )


def open_hosts(where: str, imagery: Imagery) -> frozenset[str] | None:
    """Hosts that may be private: the catalogue's own and those that the recipe lists.

    None where the catalogue lies on this machine: then each address of an item is its user's word.
    """
    listed = frozenset(host.lower().rstrip(".") for host in imagery.allow_hosts)
    return listed | {host_of(where)} if is_http(where) else None


def search(
    card: SourceCard,
    where: str,
    area: Area,
    imagery: Imagery,
    bands: Sequence[str],
    base: Path | None = None,
    periods: Mapping[str, CubePeriod] | None = None,
) -> SearchResult:
    """Find the items of an area and period, decided and without duplicates.

    Parameters
    ----------
    card, where : from `find_source`.
    area : Area
    imagery : Imagery
        Period (solar days) and cloud cover; items that do not say their cloud cover are kept, and
        of a span of time those that share a day with the period.
    bands : B-names that an item must have.
    base : folder of the recipe's relative paths: a catalogue that one of them leads to may move
        together with it, and its items are the same ones there.
    periods : of a cube, by label; days between them are not searched.

    Raises
    ------
    CatalogError
        Where the catalogue does not answer as one should, or finds nothing of a period.
    """
    collection = card.collection or imagery.collection
    documents = Documents(_listed(imagery) | (open_hosts(where, imagery) or frozenset()))
    raws: Iterable[tuple[Any, str]]
    asked = [
        imagery.model_copy(update={"period": Period(first=p.start, last=p.end)})
        for p in (periods or {}).values()
    ] or [imagery]
    if where.partition("?")[0].lower().endswith((".parquet", ".geoparquet", ".pq")):
        raws = chain.from_iterable(from_geoparquet(documents, where, area, one) for one in asked)
    elif is_api(documents, where):
        raws = chain.from_iterable(
            from_api(documents, where, collection, area, one) for one in asked
        )
    else:
        raws = from_static(documents, where)
    items: dict[tuple[str, str], Item] = {}
    left_out: list[tuple[str, str]] = []
    seen = 0
    footprint = area.geographic
    shapely.prepare(footprint)
    home = _home(card, where, imagery, base)
    for raw, place in raws:
        seen += 1
        if collection and isinstance(raw, dict) and raw.get("collection") != collection:
            if not raw.get("collection"):
                left_out.append((_name(raw, place), f"says no collection, asked for {collection}"))
            continue
        try:
            schemes = _SCHEMES.get(card.signing, frozenset())
            with_it = home is not None and _lies_in(Path(where), place)
            origin = Origin(place, documents.hosts, schemes, home if with_it else None)
            item = decide(raw, card, origin)
            if not any(_wanted(item, one, footprint) for one in asked):
                continue
            _require_usable(item, bands, area)
        except ItemError as error:
            left_out.append((_name(raw, place), spoken(error.what)))
            continue
        known = items.setdefault((item.collection, item.id), item)
        if (item.baseline or "", item.stamp) > (known.baseline or "", known.stamp):
            items[item.collection, item.id] = item
    if periods:
        left_out = list(dict.fromkeys(left_out))  # several may be told of one item
    kept, dropped = newest(items.values())
    for one in asked:
        if any(_wanted(item, one, footprint) for item in kept):
            continue
        raise CatalogError(
            "the search found nothing",
            got=f"{seen} items looked at, {len(left_out)} unusable" + _reasons(left_out),
            expected=f"items over the area {tuple(round(b, 2) for b in footprint.bounds)} "
            f"in {one.period}, cloud cover up to {imagery.max_cloud_cover:g} %",
            remedy=f"look at area, {'cube.periods' if periods else 'imagery.period'} and "
            "imagery.max_cloud_cover; the area may lie outside the catalogue",
        )
    kept = _with_names(kept)
    return SearchResult(
        tuple(sorted(kept, key=lambda item: item.id)), tuple(sorted(left_out)), dropped
    )


def _home(card: SourceCard, where: str, imagery: Imagery, base: Path | None) -> Path | None:
    """The recipe's folder, where a relative path leads from there to the catalogue."""
    told = [imagery.catalog, *([card.api] if card.api else ())]
    if any("://" in text or os.path.isabs(text) for text in told):
        return None
    return (base or Path()).resolve() if Path(where).exists() else None


def _lies_in(catalogue: Path, place: str) -> bool:
    """Whether a document lies in the folder of a catalogue, and moves with it."""
    folder = catalogue if catalogue.is_dir() else catalogue.parent
    return Path(place).resolve().is_relative_to(folder.resolve())


def _listed(imagery: Imagery) -> frozenset[str]:
    return frozenset(host.lower().rstrip(".") for host in imagery.allow_hosts)


def _name(raw: Any, place: str) -> str:
    """What an item is called that cannot be used."""
    identity = raw.get("id") if isinstance(raw, dict) else None
    return spoken(place if identity in (None, "") else identity)


def _reasons(left_out: Sequence[tuple[str, str]]) -> str:
    """Why nothing could be used: the first few."""
    said = "; ".join(f"{name}: {reason}" for name, reason in left_out[:3])
    return f" ({said}{'; …' if len(left_out) > 3 else ''})" if said else ""


def _wanted(item: Item, imagery: Imagery, footprint: BaseGeometry) -> bool:
    clear = item.cloud_cover is None or item.cloud_cover <= imagery.max_cloud_cover
    period = imagery.period
    in_time = item.solar_day <= period.last and item.last_solar_day >= period.first
    return clear and in_time and footprint.intersects(shape(item.geometry))


def _require_usable(item: Item, bands: Sequence[str], area: Area) -> None:
    """An item that is wanted has the bands, and lies where the grid can show it."""
    missing = [band for band in bands if band not in item.assets]
    if missing:
        raise ItemError(f"has no {', '.join(missing)}")
    try:
        reproject(shape(item.geometry), "EPSG:4326", area.crs)
    except AreaError as error:
        raise ItemError("its footprint leaves the domain of the grid's CRS") from error


def _with_names(items: list[Item]) -> list[Item]:
    """Items by ids of their own: one that two collections have is told with its collection."""
    often = Counter(item.id for item in items)
    return [
        replace(item, id=f"{item.collection}/{item.id}") if often[item.id] > 1 else item
        for item in items
    ]
