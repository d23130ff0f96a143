"""Terms of use, sources and the model of a product: what is stated, and nothing invented."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pystac
import pytest
import shapely
from pystac.validation.stac_validator import JsonSchemaSTACValidator

from engine.errors import CardError, WeightsError
from engine.items import Asset, Item
from engine.licences import stac_licence
from engine.models.card import ModelCard, find_card, load_card
from engine.models.mlm import mlm_fields, write_card
from engine.publishing.model import place_model, why_not
from engine.publishing.rights import Rights, rights_of
from engine.publishing.sources import sources_of, write_sources
from engine.recipes.sections import Publication

SHIPPED = load_card(find_card("lcz-made-up", Path()))


def item(name: str = "S2A_1", year: int = 2021, **more: Any) -> Item:
    square = json.loads(shapely.to_geojson(shapely.box(14.9, 46.9, 15.1, 47.0)))
    form: dict[str, Any] = {
        "id": name,
        "collection": "one",
        "source": "own",
        "datetime": datetime(year, 5, 1, 10, tzinfo=UTC),
        "bbox": (14.9, 46.9, 15.1, 47.0),
        "geometry": square,
        "centroid_lon": 15.0,
        "stamp": name,
        "assets": {"B02": Asset("/data/a.tif"), "B03": Asset("https://u:p@x.org/b.tif?sig=S")},
    }
    return Item(**(form | more))


def rights(
    items: Sequence[Item], said: Publication | None = None, card: ModelCard | None = None
) -> Rights:
    return rights_of("A map", said, items, card, mlm_fields(card) if card else {})


def test_where_nothing_is_stated_nothing_is_invented() -> None:
    found = rights([item("a")], card=SHIPPED.model_copy(update={"licence": "unknown"}))
    assert found.to_json() == {
        "title": "A map",
        "licence": "not stated",
        "attribution": "not stated",
        "citation": "not stated",
        "credits": [
            "Source images: licence not stated",
            "Model lcz-made-up: licence not stated",
        ],
        "sources": [
            {
                "licence": "not stated",
                "attribution": "not stated",
                "citation": "not stated",
                "items": 1,
            }
        ],
        "model": {
            "name": "lcz-made-up",
            "licence": "not stated",
            "attribution": "not stated",
            "citation": "not stated",
        },
    }
    stac = found.to_stac()
    assert not {"license", "providers", "sci:citation"} & stac.keys()
    assert "TIFFTAG_ARTIST" not in found.tags
    assert found.statement.startswith("Licence: not stated. ")


def test_all_that_is_stated_is_told_everywhere() -> None:
    said = Publication(
        title="My city", licence="cc-by-4.0", attribution="My City", citation="My City (2024)"
    )
    card = SHIPPED.model_copy(update={"attribution": "Its makers", "licence": "MIT"})
    photos = item("m_1", licence="public domain (USDA)", attribution="USDA")
    found = rights([item(), photos], said, card)
    credit = "Contains modified Copernicus Sentinel data 2021, processed by My City"
    others = ["Source images: USDA, licence public domain (USDA)"]
    assert found.credits[0] == credit
    assert set(others) <= set(found.credits)
    assert found.credits[-1] == "Model lcz-made-up: Its makers, licence MIT"
    stac = found.to_stac()
    assert (stac["title"], stac["license"], stac["sci:citation"]) == (
        "My city",
        "CC-BY-4.0",
        "My City (2024)",
    )
    assert stac["providers"][0]["name"] == "My City"
    assert all(text in stac["attribution"] for text in ("My City", *found.credits))
    tags = found.tags
    assert tags["TIFFTAG_ARTIST"] == "My City"
    assert tags["TIFFTAG_IMAGEDESCRIPTION"] == "My city"
    for text in ("© My City", "Licence: cc-by-4.0", *found.credits):
        assert text in tags["TIFFTAG_COPYRIGHT"]
        assert text in found.statement


@pytest.mark.parametrize(
    ("years", "told"),
    [
        ([2021], "2021"),
        ([2021, 2021, 2022], "2021-2022"),
        ([2023, 2017, 2018, 2019], "2017-2019, 2023"),
    ],
)
def test_copernicus_is_credited_with_its_years(years: list[int], told: str) -> None:
    """Once, however many licences the items state; by the solar day."""
    card = "contains modified Copernicus Sentinel data"
    items = [item(f"S2A_{k}", year, licence=card) for k, year in enumerate(years)]
    photo = item("m_1", 2001, licence="CC0-1.0")
    words = f"Contains modified Copernicus Sentinel data {told}, processed with natmap"
    assert rights(items).credits == (words,)
    assert rights([*items, photo]).credits == (words, "Source images: licence CC0-1.0")
    late = datetime(2021, 12, 31, 23, 30, tzinfo=UTC)
    (credit,) = rights([item(datetime=late, centroid_lon=150.0, licence=card)]).credits
    assert "data 2022" in credit


@pytest.mark.parametrize(
    ("licence", "spdx"),
    [
        ("CC-BY-4.0", "CC-BY-4.0"),
        ("odbl-1.0", "ODbL-1.0"),
        ("MIT OR Apache-2.0", "other"),  # STAC's field takes one word
        ("CC BY 4.0", "other"),
        ("https://x.org/terms", "other"),
        ("unknown", None),
        ("Not stated", None),
        ("", None),
        (None, None),
    ],
)
def test_only_spdx_identifiers_are_called_licences_in_stac(licence: str, spdx: str) -> None:
    assert stac_licence(licence) == spdx


def test_a_licence_that_is_an_address_is_linked() -> None:
    found = rights([item()], Publication(licence="https://x.org/terms"))
    assert found.links == [{"rel": "license", "href": "https://x.org/terms"}]
    assert rights([item()], Publication(licence="MIT")).links == []


# -- sources ------------------------------------------------------------------------------------


def test_sources_are_linked_where_they_have_an_address_and_recorded_where_not(
    tmp_path: Path,
) -> None:
    items = [
        item("S2A_1", link="https://u:p@x.org/S2A_1.json?sig=S"),
        item("S2A_2", licence="CC0-1.0", cloud_cover=3.0, attribution="A city"),
        item("S2A_2", licence="CC0-1.0", cloud_cover=3.0, attribution="A city"),
        item("one/../../odd name?", end=datetime(2021, 6, 1, tzinfo=UTC)),
        item("S2A_3", link="/data/S2A_3.json"),
        item("S2A_4", link="http://127.0.0.1/S2A_4.json"),
    ]
    links = {link["title"]: link["href"] for link in write_sources(tmp_path, sources_of(items))}
    assert links["S2A_1"] == "https://x.org/S2A_1.json"
    assert links.keys() == {entry.id for entry in items}
    kept = {name: href for name, href in links.items() if name != "S2A_1"}
    assert len(set(kept.values())) == 4
    validator = JsonSchemaSTACValidator()
    for name, href in kept.items():
        path = tmp_path / href
        assert path.parent == tmp_path / "sources"
        raw = json.loads(path.read_text())
        validator.validate_core(raw, pystac.STACObjectType.ITEM, "1.1.0")
        assert raw["id"] == name
        assert {k: a["href"] for k, a in raw["assets"].items()} == {"B03": "https://x.org/b.tif"}
        assert "/data/" not in path.read_text()
    told = json.loads((tmp_path / kept["S2A_2"]).read_text())["properties"]
    assert (told["license"], told["attribution"], told["eo:cloud_cover"]) == (
        "CC0-1.0",
        "A city",
        3,
    )


@pytest.mark.parametrize("more", [{"collection": "state"}, {"stamp": "of another folder"}])
def test_items_that_share_an_id_have_a_record_each(tmp_path: Path, more: dict[str, str]) -> None:
    """Scenes and images of two folders of one's own have ids by their files' names."""
    items = [item("frame-1", attribution="A city"), item("frame-1", attribution="A state", **more)]
    links = write_sources(tmp_path, sources_of(items))
    told = [json.loads((tmp_path / link["href"]).read_text()) for link in links]
    assert [link["title"] for link in links] == ["frame-1", "frame-1"]
    assert {raw["properties"]["attribution"] for raw in told} == {"A city", "A state"}


# -- the model ----------------------------------------------------------------------------------


@pytest.mark.parametrize("odd", ["A\0city", "A\ncity", "A \x1bcity", "A\ud800city"])
def test_terms_of_a_card_are_one_line_of_signs_that_can_be_shown(tmp_path: Path, odd: str) -> None:
    """A NUL would end the tag of a TIFF before the licence, and half a sign is no text."""
    write_card(SHIPPED, tmp_path)
    (tmp_path / SHIPPED.weights).write_bytes((SHIPPED.folder / SHIPPED.weights).read_bytes())
    raw = json.loads((tmp_path / "card.json").read_text())
    raw["properties"]["natmap:card"] |= {"attribution": odd, "licence": "MIT"}
    (tmp_path / "card.json").write_text(json.dumps(raw))
    found = rights([item()], card=load_card(tmp_path))
    assert "A city, licence MIT" in found.tags["TIFFTAG_COPYRIGHT"]


def test_a_model_that_may_be_handed_on_lies_in_the_product(tmp_path: Path) -> None:
    asset = place_model(tmp_path, SHIPPED)
    assert asset is not None
    copy = load_card(tmp_path / "model")
    assert copy.key == SHIPPED.key
    assert (tmp_path / asset["href"]).read_bytes() == (
        SHIPPED.folder / SHIPPED.weights
    ).read_bytes()
    assert "mlm:model" in asset["roles"]


@pytest.mark.parametrize(
    ("form", "why"),
    [
        ({"licence": "unknown"}, "states no licence"),
        ({"licence": "unknown", "shareable": True}, None),
        ({"shareable": False}, "may not be handed on"),
        ({}, None),
    ],
)
def test_a_model_is_copied_only_where_that_is_allowed(
    tmp_path: Path, form: dict[str, Any], why: str | None
) -> None:
    card = SHIPPED.model_copy(update=form)
    assert (why_not(card) is None) == (why is None)
    assert why is None or why in (why_not(card) or "")
    assert (place_model(tmp_path, card) is None) == (why is not None)
    assert (tmp_path / "model").exists() == (why is None)


def test_a_model_at_a_public_address_is_linked(tmp_path: Path) -> None:
    card = SHIPPED.model_copy(
        update={"address": "https://u:p@x.org/m.safetensors?sig=S", "shareable": False}
    )
    asset = place_model(tmp_path, card)
    assert asset is not None
    assert asset["href"] == "https://x.org/m.safetensors"
    assert asset["file:checksum"].endswith(SHIPPED.sha256)
    assert not list(tmp_path.iterdir())


def test_weights_that_changed_since_are_not_handed_on(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    weights = bytearray((SHIPPED.folder / SHIPPED.weights).read_bytes())
    weights[-1] ^= 1
    (tmp_path / "m" / SHIPPED.weights).write_bytes(weights)
    with pytest.raises(WeightsError, match="not those of the card"):
        place_model(tmp_path, SHIPPED.model_copy(update={"folder": tmp_path / "m"}))


def test_terms_in_a_card_decide_no_result(tmp_path: Path) -> None:
    form = {
        "licence": "MIT",
        "attribution": "Its makers",
        "citation": "They (2020)",
        "address": "https://x.org/m.safetensors",
        "shareable": False,
    }
    told = SHIPPED.model_copy(update=form)
    assert told.key == SHIPPED.key
    (tmp_path / SHIPPED.weights).write_bytes((SHIPPED.folder / SHIPPED.weights).read_bytes())
    write_card(told, tmp_path)
    again = load_card(tmp_path)
    assert again.model_dump(include=set(form)) == form
    raw = json.loads((tmp_path / "card.json").read_text())
    raw["properties"]["natmap:card"]["address"] = "/data/m.safetensors"
    (tmp_path / "card.json").write_text(json.dumps(raw))
    with pytest.raises(CardError, match="from anywhere"):
        load_card(tmp_path)


def test_a_card_without_terms_is_written_as_before(tmp_path: Path) -> None:
    path = write_card(SHIPPED, tmp_path)
    told = json.loads(path.read_text())["properties"]["natmap:card"]
    assert not {"attribution", "citation", "address", "shareable"} & told.keys()
