"""A real STAC API against the embedded search: the same items, the same decisions."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
import stac_geoparquet.arrow
from services.pgstac import PROGRAMS, Catalogue
from services.required import need

from engine.catalog.search import SearchResult, find_source, search
from engine.errors import CatalogError
from engine.grid import Area
from engine.recipes.sections import Imagery

pytestmark = pytest.mark.slow
COLLECTION = "sentinel-2-l2a"
BANDS = ["B02", "B03", "B04", "B08"]
ACROSS, DOWN, DATES = 8, 6, 5  # 240 scenes, 30 of them twice: three pages of an answer


def scene(template: dict[str, Any], col: int, row: int, turn: int, version: int) -> dict[str, Any]:
    """A real item, moved; the last columns lie across the 180th meridian."""
    item = copy.deepcopy(template)
    west = 4.0 + 1.3 * col if col < ACROSS - 2 else 178.0 + 1.3 * (col - ACROSS + 2)
    south, when = 44.0 + 0.9 * row, datetime(2023, 6, 1, 10, 40, tzinfo=UTC)
    when += timedelta(days=5 * turn, minutes=col)
    east, north = west + 1.4, south + 1.0
    name = f"S2B_{31 + col % 3}T{chr(65 + col)}{chr(65 + row)}_{when:%Y%m%d}_{version}_L2A"

    def ring(left: float, right: float) -> list[list[list[float]]]:
        corners = [(left, south), (right, south), (right, north), (left, north), (left, south)]
        return [[[x, y] for x, y in corners]]

    if east > 180:
        parts = [ring(west, 180.0), ring(-180.0, east - 360)]
        item["geometry"] = {"type": "MultiPolygon", "coordinates": parts}
        item["bbox"] = [west, south, east - 360, north]
    else:
        item["geometry"] = {"type": "Polygon", "coordinates": ring(west, east)}
        item["bbox"] = [west, south, east, north]
    take = f"GS2B_{when:%Y%m%dT%H%M%S}_03{col:04}_N05.0{8 + version}"
    item["id"] = name
    item["properties"] |= {
        "datetime": f"{when:%Y-%m-%dT%H:%M:%SZ}",
        "eo:cloud_cover": (37 * col + 61 * row + 17 * turn) % 101,
        "grid:code": f"MGRS-{31 + col % 3}T{chr(65 + col)}{chr(65 + row)}",
        "s2:datatake_id": take,
        "s2:product_uri": f"{name}.SAFE",
        "s2:generation_time": f"{when + timedelta(hours=6 + version):%Y-%m-%dT%H:%M:%SZ}",
    }
    for asset in item["assets"].values():
        asset["href"] = f"https://tiles.example/{name}/{asset['href'].rpartition('/')[2]}"
    item["links"] = []
    return item


@pytest.fixture(scope="module")
def items(data: Path) -> list[dict[str, Any]]:
    template = json.loads((data / "stac-items" / "earth-search-v1-items.json").read_text())
    template = template["features"][0]
    made = [
        scene(template, col, row, turn, version)
        for col in range(ACROSS)
        for row in range(DOWN)
        for turn in range(DATES)
        for version in ([0, 1] if turn == 3 and col < 5 else [0])
    ]
    assert len(made) == 270
    return made


@pytest.fixture(scope="module")
def api(items: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    need(*PROGRAMS)
    catalogue = Catalogue(tmp_path_factory.mktemp("pgstac"))
    try:
        extent = {
            "spatial": {"bbox": [[-180, -90, 180, 90]]},
            "temporal": {"interval": [["2023-01-01T00:00:00Z", None]]},
        }
        collection = {
            "type": "Collection",
            "stac_version": "1.0.0",
            "id": COLLECTION,
            "description": "moved scenes",
            "license": "proprietary",
            "extent": extent,
            "links": [],
        }
        catalogue.load(collection, items)
        yield catalogue.url
    finally:
        catalogue.stop()


@pytest.fixture(scope="module")
def parquet(items: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("parquet") / "items.parquet"
    table = stac_geoparquet.arrow.parse_stac_items_to_arrow(items).read_all()
    stac_geoparquet.arrow.to_parquet(table, path)
    return str(path)


@cache
def ask(where: str, bbox: tuple[float, ...], **more: Any) -> SearchResult:
    imagery = Imagery(catalog=where, collection=COLLECTION, **more)
    card, place = find_source(imagery)
    return search(card, place, Area.from_bbox(bbox, "EPSG:3857"), imagery, BANDS)


@pytest.mark.parametrize(
    ("bbox", "period", "clouds", "count"),
    [
        ((3.0, 43.0, 20.0, 53.0), "2023-05-01/2023-09-01", 100.0, 180),
        ((3.0, 43.0, 9.0, 47.0), "2023-06-06/2023-06-21", 40.0, None),
        ((9.25, 47.65, 9.28, 47.68), "2023-06-01/2023-07-30", 100.0, None),
        ((179.0, 45.0, 180.0, 46.0), "2023-05-01/2023-09-01", 100.0, None),
        ((-179.9, 45.0, -179.0, 46.0), "2023-05-01/2023-09-01", 100.0, None),
    ],
)
def test_the_api_finds_what_the_embedded_search_finds(
    api: str,
    parquet: str,
    bbox: tuple[float, ...],
    period: str,
    clouds: float,
    count: int | None,
) -> None:
    asked = {"period": period, "max_cloud_cover": clouds}
    far, near = ask(api, bbox, **asked), ask(parquet, bbox, **asked)
    assert len(near.items) > 9
    assert count is None or len(near.items) == count
    assert [item.id for item in far.items] == [item.id for item in near.items]
    assert far == near


def test_answers_come_in_pages_and_all_are_read(api: str, items: list[dict[str, Any]]) -> None:
    with urlopen(f"{api}/search?collections={COLLECTION}&limit=100") as answer:
        page = json.loads(answer.read())
    assert len(page["features"]) == 100
    assert any(link["rel"] == "next" for link in page["links"])
    asked = {"period": "2023-05-01/2023-09-01", "max_cloud_cover": 100.0}
    found = ask(api, (3.0, 43.0, 20.0, 53.0), **asked)
    assert len(found.items) + found.duplicates == sum(item["bbox"][0] < 100 for item in items)
    assert found.duplicates == 30


def test_nothing_found_and_an_unknown_collection_are_said(api: str) -> None:
    with pytest.raises(CatalogError, match="found nothing"):
        ask(api, (9.0, 47.5, 9.1, 47.6), period="2019-01-01/2019-02-01")
    imagery = Imagery(catalog=api, collection="no-such", period="2023-05-01/2023-09-01")
    card, place = find_source(imagery)
    with pytest.raises(CatalogError, match="found nothing"):
        search(card, place, Area.from_bbox((9.0, 47.5, 9.1, 47.6), "EPSG:3857"), imagery, BANDS)
