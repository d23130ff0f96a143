"""What items say that others must be told: where they are, their terms, whom to name."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine

from engine.addresses import from_anywhere
from engine.catalog.cards import load_source_card
from engine.catalog.credits import credits_of
from engine.catalog.ingest import ingest
from engine.catalog.normalise import normalise
from engine.catalog.search import find_source, search
from engine.grid.area import Area
from engine.items import Item
from engine.recipes.sections import Imagery

OWN = load_source_card("naip").model_copy(update={"name": "own", "licence": "not stated"})


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("https://earth-search.aws.element84.com/v1/collections/c/items/a", True),
        ("s3://bucket/a.json", True),
        ("http://8.8.8.8/a.json", True),
        ("http://localhost:8080/a.json", False),
        ("http://127.0.0.1/a.json", False),
        ("http://[::1]/a.json", False),
        ("http://10.1.2.3/a.json", False),
        ("https://minio:9000/a.json", False),
        ("https://stac.intranet.local/a.json", False),
        ("file:///data/a.json", False),
        ("/data/a.json", False),
        ("./a.json", False),
        ("C:\\data\\a.json", False),
        ("javascript:alert(1)", False),
        ("https://", False),
        ("https://[broken/a.json", False),
        ("https://a.example/\n.json", False),
    ],
)
def test_what_leads_there_from_anywhere(address: str, public: bool) -> None:
    assert from_anywhere(address) is public


def links(*pairs: tuple[Any, Any], **properties: Any) -> dict[str, Any]:
    return {
        "links": [{"rel": rel, "href": href} for rel, href in pairs],
        "properties": properties,
    }


@pytest.mark.parametrize(
    ("item", "base", "link"),
    [
        (links(("self", "https://x.org/a.json")), None, "https://x.org/a.json"),
        (links(("self", "./a.json")), "https://x.org/c/b.json", "https://x.org/c/a.json"),
        (links(("self", "./a.json")), "/data/b.json", None),
        (
            links(("self", "/data/a.json"), ("canonical", "https://x.org/a")),
            None,
            "https://x.org/a",
        ),
        (links(("self", "https://u:p@x.org/a.json?sig=S&se=2")), None, "https://x.org/a.json"),
        (links(("self", "https://x.org/a?which=2")), None, None),  # of which one is not said
        (links(("self", "http://localhost/a.json")), None, None),
        (
            links(("self", "//[no"), ("self", "https://x.org/a")),
            "https://x.org/",
            "https://x.org/a",
        ),
        (links(("self", "https://x.org/" + "a" * 2000)), None, None),
        (links(("self", 3), ("self", None)), None, None),
        ({"links": ["a", 1, None]}, None, None),
        ({"links": "a"}, None, None),
        ({}, None, None),
    ],
)
def test_an_item_s_address_is_its_own(item: dict[str, Any], base: str | None, link: object) -> None:
    assert credits_of(item, OWN, base)["link"] == link


@pytest.mark.parametrize(
    ("item", "licence"),
    [
        (links(license="CC-BY-4.0"), "CC-BY-4.0"),
        (links(license="proprietary"), "not stated"),
        (links(("license", "https://x.org/terms"), license="other"), "https://x.org/terms"),
        (links(license="other", **{"natmap:licence": "for research"}), "for research"),
        (links(), "not stated"),
        (links(license=["a"]), "not stated"),
        ({"properties": "none"}, "not stated"),
    ],
)
def test_terms_are_those_that_are_stated(item: dict[str, Any], licence: str) -> None:
    assert credits_of(item, OWN, None)["licence"] == licence


def test_whoever_licenses_goes_before_whoever_produced() -> None:
    def provider(name: object, *roles: str) -> dict[str, Any]:
        return {"name": name, "roles": list(roles)}

    said = [provider("Host", "host"), provider("Maker", "producer"), provider(3, "licensor"), "x"]
    assert credits_of(links(providers=said), OWN, None)["attribution"] == "Maker"
    said += [provider("Owner\n of  it", "licensor")]
    assert credits_of(links(providers=said), OWN, None)["attribution"] == "Owner of it"
    named = links(providers=said, attribution="City https://u:p@x.org/?sig=S")
    assert credits_of(named, OWN, None)["attribution"] == "City https://x.org/"


@pytest.mark.parametrize(
    ("name", "sentinel"),
    [("S2A_28QCH_20200714_0_L2A.json", True), ("S2B_31QGB_20200831_0_L2A.json", True)],
)
def test_published_items_of_sentinel_are_credited(data: Path, name: str, sentinel: bool) -> None:
    item = json.loads((data / "stac-items" / name).read_text())
    for card in (load_source_card("earth-search"), OWN.model_copy(update={"collection": None})):
        assert normalise(item, card).copernicus is sentinel


@pytest.mark.parametrize(
    ("form", "sentinel"),
    [
        ({"id": "m_3411849_ne", "collection": "naip", "licence": "public domain"}, False),
        ({"id": "S2A_32TPT", "collection": "x", "licence": "CC0-1.0"}, False),  # made up
        ({"id": "S2A_32TPT", "collection": "x", "licence": None}, True),
        ({"id": "S2Ahead", "collection": "x", "licence": None}, False),
        ({"id": "mosaic", "collection": "sentinel-2-l2a", "licence": None}, True),
        ({"id": "a", "collection": "x", "licence": "x", "attribution": "ESA Sentinel"}, True),
    ],
)
def test_where_sentinel_data_went_in(form: dict[str, Any], sentinel: bool) -> None:
    square = json.loads(shapely.to_geojson(shapely.box(14.9, 46.9, 15.1, 47.0)))
    values = {"source": "own", "datetime": "2023-05-01T10:00:00+00:00", "geometry": square}
    values |= {"bbox": [14.9, 46.9, 15.1, 47.0], "centroid_lon": 15.0, "stamp": "s", "assets": {}}
    values |= {"notes": []}
    assert Item.from_dict(values | form).copernicus is sentinel


# -- a folder of one's own ----------------------------------------------------------------------


def photograph(path: Path) -> None:
    path.parent.mkdir(parents=True)
    form = {"driver": "GTiff", "height": 40, "width": 40, "count": 3, "dtype": "uint8"}
    place = {"crs": "EPSG:26911", "transform": Affine(1, 0, 435_000, 0, -1, 3_777_000)}
    with rasterio.open(path, "w", photometric="rgb", **form, **place) as file:
        file.write(np.full((3, 40, 40), 90, "uint8"))


def find(home: Path, catalog: str) -> tuple[Item, ...]:
    wanted = Imagery.model_validate({"catalog": catalog, "period": "2020-01-01/2020-12-31"})
    area = Area.from_bbox((-117.8, 34.0, -117.6, 34.2), "EPSG:26911")
    card, where = find_source(wanted, home)
    return search(card, where, area, wanted, ["B04"], home).items


def test_ingest_states_what_it_is_told_and_nothing_else(tmp_path: Path) -> None:
    photograph(tmp_path / "photos" / "a.tif")
    ingest(
        tmp_path / "photos",
        when="2020-06-01",
        title="Photos",
        licence="for research only",
        attribution="A city",
        citation="A city (2020): Photos.",
    )
    (item,) = find(tmp_path, "photos-stac/catalog.json")
    told = (item.licence, item.attribution, item.citation)
    assert told == ("for research only", "A city", "A city (2020): Photos.")
    assert json.loads((tmp_path / "photos-stac" / "catalog.json").read_text())["title"] == "Photos"
    raw = json.loads((tmp_path / "photos-stac" / "a.json").read_text())
    assert raw["properties"]["license"] == "other"  # STAC has no room for words
    ingest(tmp_path / "photos", when="2020-06-01")
    (item,) = find(tmp_path, "photos-stac/catalog.json")
    assert (item.licence, item.attribution, item.citation) == ("not stated", None, None)


def test_a_moved_project_has_the_same_items(tmp_path: Path) -> None:
    """Named by a relative path, with files that its items name so; and nothing else has."""
    one, other = tmp_path / "one", tmp_path / "deep" / "other"
    photograph(one / "photos" / "a.tif")
    ingest(one / "photos", when="2020-06-01")
    shutil.copytree(one, other)  # with times, as a move keeps them
    (before,), (after,) = find(one, "photos-stac/catalog.json"), find(other, "./photos-stac")
    assert before.stamp == after.stamp
    assert Path(after.assets["B04"].href) == other / "photos" / "a.tif"
    # another catalogue of the same names is another one
    shutil.copytree(one / "photos", one / "v2" / "photos")
    shutil.copytree(one / "photos-stac", one / "v2" / "photos-stac")
    (second,) = find(one, "v2/photos-stac/catalog.json")
    assert second.stamp != before.stamp
    # as it is by an absolute path
    stamps = {find(p, str(p / "photos-stac" / "catalog.json"))[0].stamp for p in (one, other)}
    assert len(stamps | {before.stamp}) == 3
    # and so it is once a file has changed
    with rasterio.open(other / "photos" / "a.tif", "r+") as file:
        file.update_tags(changed="yes")
    os.utime(other / "photos" / "a.tif", (1, 1))
    (changed,) = find(other, "photos-stac/catalog.json")
    assert changed.stamp != before.stamp
