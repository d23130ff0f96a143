"""A static catalogue: documents that link to one another."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from engine.addresses import is_http, resolve
from engine.catalog.documents import Documents
from engine.errors import CatalogError

__all__ = ["from_static"]

_PARTS, _PAGES = ("child", "item", "items"), ("next",)
_DEEPEST = 32  # links from the first document; published catalogues have fewer than ten


def from_static(documents: Documents, where: str) -> Iterator[tuple[Any, str]]:
    """Items, each with the place of the document that holds it.

    An item that does not say its collection is of the one whose document leads to it. Items that
    come in pages are read page by page.

    Raises
    ------
    CatalogError
        Naming a document that is wrong, or that leads where it may not.
    """
    root = str(Path(where) / "catalog.json") if Path(where).is_dir() else where
    waiting: list[tuple[str, str | None, int]] = [(root, None, 0)]
    seen = {root}
    while waiting:
        place, collection, depth = waiting.pop()
        value = documents.read(place)
        kind = value.get("type")
        if kind == "Feature":
            yield _of(_addressed(value, place), collection), place
        elif kind == "FeatureCollection":
            for feature in _list(value, "features", place):
                documents.count()
                yield _of(feature, collection), place
            for link in _links(value, place, _PAGES):
                target = _follow(documents, place, link)
                if target not in seen:
                    documents.count()
                    seen.add(target)
                    waiting.append((target, collection, depth))
        elif kind in ("Catalog", "Collection") or "links" in value:
            if kind == "Collection" or "extent" in value:
                collection = str(value.get("id"))
            if depth == _DEEPEST:
                raise CatalogError(
                    "the catalogue's documents lead ever deeper", got=f"{place}, {depth} links down"
                )
            for link in reversed(_links(value, place, _PARTS)):
                target = _follow(documents, place, link)
                if target not in seen:
                    documents.count()  # the next ones are kept in mind
                    seen.add(target)
                    waiting.append((target, collection, depth + 1))
        else:
            raise CatalogError("not a STAC document", got=place, expected="catalog or item")


def _list(value: Mapping[str, Any], name: str, place: str) -> list[Any]:
    found = value.get(name, [])
    if not isinstance(found, list):
        raise CatalogError(
            f"a document's {name} are not a list: it is not STAC",
            got=f"{place}: {type(found).__name__}",
        )
    return found


def _links(value: Mapping[str, Any], place: str, wanted: Collection[str]) -> list[str]:
    """Where a document's links of some relations lead, as written."""
    found = []
    for link in _list(value, "links", place):
        if not isinstance(link, Mapping):
            raise CatalogError(
                "a document's link is not an object: it is not STAC",
                got=f"{place}: {type(link).__name__}",
                expected="rel and href",
            )
        if link.get("rel") in wanted:
            if str(link.get("method") or "GET").upper() != "GET":
                raise CatalogError(
                    "a document's next page is not to be had by its address alone",
                    got=f"{place}: method {link['method']}",
                    remedy="name the API's own address as imagery.catalog, and its collection",
                )
            href = link.get("href")
            if not isinstance(href, str) or not href:
                raise CatalogError("a document's link has no href", got=place)
            found.append(href)
    return found


def _follow(documents: Documents, place: str, href: str) -> str:
    try:
        target = resolve(href, place)
    except ValueError as error:
        raise CatalogError(
            "a document's link is not an address", got=f"{place}: {error}"
        ) from error
    if not is_http(place):
        documents.trust(target)
    elif not is_http(target):
        raise CatalogError(
            "a remote document links to what is not on a web server",
            got=place,
            expected="http or https",
        )
    return target


def _addressed(item: Mapping[str, Any], place: str) -> Mapping[str, Any]:
    """An item of a web server that does not say its own address: it is that of its document."""
    links = item.get("links", [])
    if not is_http(place) or not isinstance(links, list):
        return item
    if any(isinstance(link, Mapping) and link.get("rel") == "self" for link in links):
        return item
    return {**item, "links": [*links, {"rel": "self", "href": place}]}


def _of(feature: Any, collection: str | None) -> Any:
    if isinstance(feature, Mapping) and not feature.get("collection") and collection:
        return {**feature, "collection": collection}
    return feature
