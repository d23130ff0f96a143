"""Items that come in pages: a collection of an API that is named by its own address."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import shapely

from engine.catalog.search import find_source, search
from engine.errors import CatalogError
from engine.grid.area import Area
from engine.recipes.sections import Imagery

AREA = Area.from_bbox((15.001, 46.94, 15.009, 46.95), "EPSG:32633")
SQUARE = json.loads(shapely.to_geojson(shapely.box(14.9, 46.9, 15.1, 47.0)))


def item(number: int) -> dict[str, Any]:
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": f"x{number}",
        "collection": "one",
        "geometry": SQUARE,
        "properties": {"datetime": "2023-05-02T10:00:00Z"},
        "assets": {"B02": {"href": f"./{number}.tif"}},
    }


def pages(folder: Path, count: int, **more: Any) -> str:
    """A collection whose items lie on so many pages, each of which leads to the next."""
    document = {"type": "Collection", "id": "one", "links": [{"rel": "items", "href": "0.json"}]}
    (folder / "catalog.json").write_text(json.dumps(document))
    for number in range(count):
        last = number == count - 1
        following = [{"rel": "next", "href": f"{number + 1}.json", **more}] * (not last)
        links = [{"rel": "self", "href": f"{number}.json"}, *following]
        page = {"type": "FeatureCollection", "features": [item(number)], "links": links}
        (folder / f"{number}.json").write_text(json.dumps(page))
    return str(folder / "catalog.json")


def found(where: str) -> list[str]:
    wanted = Imagery.model_validate({"catalog": where, "period": "2023-05-01/2023-05-31"})
    return [i.id for i in search(*find_source(wanted), AREA, wanted, ["B02"]).items]


def test_all_pages_are_read_and_each_once(tmp_path: Path) -> None:
    where = pages(tmp_path, 40)  # more than documents may lead down
    assert sorted(found(where)) == sorted(f"x{k}" for k in range(40))
    last = json.loads((tmp_path / "39.json").read_text())
    last["links"] = [{"rel": "next", "href": "0.json"}]  # a circle
    (tmp_path / "39.json").write_text(json.dumps(last))
    assert len(found(where)) == 40
    assert len(found(str(tmp_path / "38.json"))) == 40


def test_pages_that_must_be_asked_for_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match=r"next page(.|\n)*method POST"):
        found(pages(tmp_path, 2, method="POST", body={"token": "next:x"}))
