"""What a product is derived from: items at public addresses, and records of all others."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from engine.addresses import from_anywhere, public_address
from engine.catalog.credits import LICENCE
from engine.items import Item
from engine.licences import stac_licence
from engine.publishing.documents import write_json

__all__ = ["FOLDER", "Source", "sources_of", "write_sources"]

FOLDER = "sources"
"""Of the product folder, with the records."""


@dataclass(frozen=True)
class Source:
    """An item that a map was made from.

    Attributes
    ----------
    id : of the item.
    link : its address, where that leads there from anywhere.
    record : what is known of it, a STAC item; for items without such an address.
    apart : what tells it from another one of the same id.
    """

    id: str
    link: str | None = None
    record: Mapping[str, Any] | None = None
    apart: str = ""

    @property
    def address(self) -> str | None:
        """Its address, without secrets; None where it has none that others could follow."""
        if self.link is None or not from_anywhere(self.link):
            return None
        return public_address(self.link)


def sources_of(items: Iterable[Item]) -> list[Source]:
    """Items as sources of a product, each once.

    Two catalogues of one recipe may have items of one id, and a store may have two versions of one.
    """
    known = {(item.collection, item.id, item.stamp): item for item in items}
    return [
        Source(item.id, item.link, _record(item), f"{item.collection}\n{item.stamp}")
        for _, item in sorted(known.items())
    ]


def write_sources(folder: Path, sources: Sequence[Source]) -> list[dict[str, str]]:
    """Write records of items without an address; give ``derived_from`` links to all.

    Parameters
    ----------
    folder : the product's.
    sources : Sequence of Source

    Returns
    -------
    Links, relative ones from the product folder itself.
    """
    links: dict[str, dict[str, str]] = {}
    times = Counter(source.id for source in sources)
    for source in sources:
        href = source.address
        if href is None and source.record is not None:
            (folder / FOLDER).mkdir(exist_ok=True)
            apart = source.apart if times[source.id] > 1 else ""
            path = folder / FOLDER / f"{_file_name(source.id, apart)}.json"
            write_json(path, source.record)
            href = f"./{FOLDER}/{path.name}"
        if href is not None:
            links[href] = {
                "rel": "derived_from",
                "href": href,
                "type": "application/geo+json",
                "title": source.id,
            }
    return list(links.values())


def _file_name(identity: str, apart: str) -> str:
    """A name for a file that no other item has; of most items their id."""
    plain = re.sub(r"[^A-Za-z0-9._-]", "_", identity)[:100].lstrip(".")
    if plain == identity and not apart:
        return plain
    whole = f"{identity}\n{apart}" if apart else identity
    return f"{plain}-{sha256(whole.encode()).hexdigest()[:8]}"


def _record(item: Item) -> dict[str, Any]:
    """An item as natmap knows it; of its files those that others could open."""
    properties: dict[str, Any] = {"datetime": _time(item)}
    if item.end is not None:
        properties |= {
            "datetime": None,
            "start_datetime": _time(item),
            "end_datetime": item.end.isoformat().replace("+00:00", "Z"),
        }
    if licence := stac_licence(item.licence):
        properties["license"] = licence
        if licence == "other":
            properties[LICENCE] = item.licence
    if item.attribution:
        properties["attribution"] = item.attribution
    if item.citation:
        properties["sci:citation"] = item.citation
    if item.cloud_cover is not None:
        properties["eo:cloud_cover"] = item.cloud_cover
    if item.baseline:
        properties["processing:version"] = item.baseline
    assets = {
        name: {"href": public_address(asset.href), "roles": ["data"]}
        for name, asset in item.assets.items()
        if from_anywhere(asset.href)
    }
    west, south, east, north = item.bbox
    return {
        "type": "Feature",
        "stac_version": "1.1.0",
        "stac_extensions": [],
        "id": item.id,
        "geometry": item.geometry,
        "bbox": [west, south, east, north],
        "properties": properties,
        "links": [],
        "assets": assets,
    }


def _time(item: Item) -> str:
    return item.datetime.isoformat().replace("+00:00", "Z")
