"""What items are called: each by an id of its own, and nothing secret in it is shown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import shapely

from engine.catalog.checks import Origin, decide, spoken
from engine.catalog.search import SearchResult, find_source, search
from engine.errors import CatalogError, ItemError
from engine.grid.area import Area
from engine.recipes.sections import Imagery, Period

PLACE = "https://me:SECRET@x.org/items/1.json?token=SECRET"


def raw(**more: Any) -> dict[str, Any]:
    square = json.loads(shapely.to_geojson(shapely.box(14.9, 46.9, 15.1, 47.0)))
    asset = {"href": "/data/b.tif", "type": "image/tiff", "eo:bands": [{"name": "B02"}]}
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": "one",
        "geometry": square,
        "bbox": [14.9, 46.9, 15.1, 47.0],
        "properties": {"datetime": "2023-05-01T10:00:00Z"},
        "assets": {"B02": asset},
        "links": [],
        **more,
    }


def find(folder: Path, *features: dict[str, Any]) -> SearchResult:
    path = folder / "catalog.json"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    period = Period.model_validate("2023-05-01/2023-05-31")
    imagery = Imagery(catalog=str(path), period=period)
    card, where = find_source(imagery, folder)
    area = Area(shapely.box(500_000, 5_195_000, 501_000, 5_200_000), "EPSG:32633")
    return search(card, where, area, imagery, ["B02"], folder)


@pytest.mark.parametrize("odd", [None, "", [], {}, 1.5])
def test_an_item_without_an_id_is_left_out_by_name_of_its_document(
    tmp_path: Path, odd: Any
) -> None:
    """Two of them would pass for one, and one would be gone without a word."""
    nameless = {k: v for k, v in raw().items() if k != "id"} if odd is None else raw(id=odd)
    found = find(tmp_path, raw(), nameless)
    assert [item.id for item in found.items] == ["one"]
    [(_, why)] = found.left_out
    assert "without an id" in why
    with pytest.raises(CatalogError, match="2 unusable"):
        find(tmp_path, nameless, nameless)


def test_what_is_left_out_is_named_without_secrets() -> None:
    assert spoken(PLACE) == "https://x.org/items/1.json"
    assert "SECRET" not in spoken(f"at {PLACE}\nand more")
    with pytest.raises(ItemError) as caught:
        decide(raw(id=PLACE, assets={}), *card_and_origin())
    assert "SECRET" not in str(caught.value)


def card_and_origin() -> tuple[Any, Origin]:
    from engine.catalog.cards import load_source_card

    return load_source_card("earth-search"), Origin(PLACE, frozenset(), frozenset())
