"""A STAC API: asked once, page by page."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, time, timedelta
from typing import Any

import requests
import shapely
from pystac_client import Client
from pystac_client.exceptions import APIError
from pystac_client.stac_api_io import StacApiIO

from engine.addresses import is_http
from engine.catalog.documents import TIMEOUT, Documents
from engine.errors import CatalogError
from engine.grid.area import Area
from engine.recipes.sections import Imagery

__all__ = ["from_api", "is_api"]

_WRONG = (APIError, requests.RequestException, ValueError, KeyError, TypeError, AttributeError)
"""What comes of answers that are not what the client expects."""


class _Io(StacApiIO):
    """Reads from web servers alone, within the bounds of a search."""

    def __init__(self, documents: Documents) -> None:
        super().__init__(timeout=TIMEOUT, max_retries=None)
        self._documents = documents
        self.session = documents.session()

    def read_text(self, source: Any, *args: Any, **more: Any) -> str:
        href = str(getattr(source, "href", source))
        if not is_http(href):
            raise APIError("the server links to what is not on a web server")
        self._documents.count()
        return super().read_text(source, *args, **more)


def is_api(documents: Documents, where: str) -> bool:
    """Whether an address is that of an API with a search."""
    if not is_http(where) or where.partition("?")[0].endswith(".json"):
        return False
    said = documents.read(where).get("conformsTo")
    return isinstance(said, list) and any("item-search" in str(c) for c in said)


def from_api(
    documents: Documents, where: str, collection: str | None, area: Area, imagery: Imagery
) -> Iterator[tuple[Any, str]]:
    """Items that an API has for an area and a period, each with the API's address.

    Raises
    ------
    CatalogError
        Where it does not answer as it should.
    """
    first = datetime.combine(imagery.period.first - timedelta(days=1), time(), UTC)
    last = datetime.combine(imagery.period.last + timedelta(days=2), time(), UTC)
    pages: set[int] = set()
    try:
        client = Client.open(where, stac_io=_Io(documents))
        found = client.search(
            collections=[collection] if collection else None,
            intersects=_simple(area),
            datetime=[first, last],
            limit=100,
        )
        for page in found.pages_as_dicts():
            features = page.get("features", [])
            if not isinstance(features, list):
                raise CatalogError("a page of the catalogue is not STAC", got=where)
            ids = [f.get("id") for f in features if isinstance(f, dict)]
            print_of_page = hash(json.dumps(ids))
            if ids and print_of_page in pages:
                raise CatalogError(
                    "the catalogue's paging goes round in a circle",
                    got=f"the page that begins with {ids[0]} came twice",
                    remedy="report it to the catalogue; a smaller area or period may avoid it",
                )
            pages.add(print_of_page)
            documents.count(len(features))
            for feature in features:
                if isinstance(feature, dict) and collection and not feature.get("collection"):
                    feature["collection"] = collection  # it was asked for no other
                yield feature, where
    except CatalogError:
        raise
    except RecursionError as error:
        raise CatalogError("a page of the catalogue is nested too deep", got=where) from error
    except _WRONG as error:
        raise CatalogError(
            "the catalogue does not answer as a STAC API should",
            got=f"{where}: {type(error).__name__}: {str(error)[:300]}",
            remedy="look at the address in a browser; a page of HTML or a login is not a catalogue",
        ) from error


def _simple(area: Area) -> dict[str, Any]:
    """A footprint small enough for a request; the exact test is made on what comes back."""
    hull = area.geographic
    if shapely.get_num_coordinates(hull) > 500:
        hull = shapely.simplify(shapely.buffer(hull, 0.02), 0.01)
    if shapely.get_num_coordinates(hull) > 500:
        # on each side of 180 degrees by itself: one box would go round the Earth
        sides = (shapely.box(-180, -90, 0, 90), shapely.box(0, -90, 180, 90))
        parts = [shapely.envelope(shapely.intersection(hull, side)) for side in sides]
        west, _, east, _ = hull.bounds
        hull = shapely.union_all(parts) if east - west > 180 else shapely.envelope(hull)
    found: dict[str, Any] = json.loads(shapely.to_geojson(hull))
    return found
