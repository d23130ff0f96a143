"""A publication states what was made: a change of the recipe without a run is refused, or said."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import rasterio
import yaml
from pydantic import BaseModel
from support import shared
from support.worlds import change_recipe

import engine
from engine.catalog.snapshot import read_snapshot, write_snapshot
from engine.errors import NatmapError, PublishError
from engine.models.card import load_card
from engine.pipeline import publish as module
from engine.pipeline.made import AS_GIVEN
from engine.products.lcz import LczRecipe
from engine.publishing.product import Facts
from engine.recipes.sections import Publication

pytestmark = pytest.mark.slow

STALE: dict[str, Any] = {
    "area.file": "truth/urban.geojson",
    "area.bbox": [10.0, 50.0, 10.1, 50.1],
    "area.country": "DEU",
    "grid.crs": "EPSG:25832",
    "grid.resolution": 20.0,
    "grid.tile": 320,
    "grid.chunk": 40,
    "grid.origin": [50.0, 50.0],
    "mask.boundaries": "truth/area.geojson",
    "imagery.period": "2021-09-26/2021-10-02",
    "imagery.bands": ["B02", "B03"],
    "embeddings": {"source": "vectors", "year": 2021},
    "features": [{"name": "zone", "kind": "values", "path": "truth/truth-lcz.tif"}],
    "imagery.verify": True,
    "imagery.max_cloud_cover": 0.0,
    "cube.composite": "mean",
    "cube.periods": [{"start": "2021-09-01", "end": "2021-09-30"}],
    "cube.keep_scenes": False,
    "cube.cloud_dilation": 0.0,
    "cube.mask_snow": True,
    "model.card": "ugs-made-up",
    "model.precision": "bfloat16",
    "model.scores": "uint8",
    "model.embedding": True,
    "filter.method": "majority",
    "filter.radius_rule": "floor",
    "filter.majority_radius": 3,
}
"""Changes that make a tile stale, the store another one, or the recipe impossible."""

GIVEN: dict[str, Any] = {
    "name": "another",
    "publish": "another",
    "publication.title": "Another",
    "publication.licence": "CC-BY-4.0",
    "publication.attribution": "A city",
    "publication.citation": "A city (2021): Another.",
    "price_per_worker_hour": 2.0,
}
"""Changes that decide no pixel, and are published as given."""

NOTHING: dict[str, Any] = {
    "product": None,  # another schema
    "store": None,  # another map
    "mask.outside": None,  # it has one value
    "imagery.catalog": "elsewhere.json",  # the items are those of the run
    "imagery.collection": None,
    "imagery.allow_hosts": ["elsewhere.example"],
    "instances.segmenter": "slic",  # the model needs none
    "instances.segmentation": "per_window",
    "instances.checkpoint": None,  # of a segmenter that is none of these
    "images": None,  # of a fusion
    "model.device": "cpu",
    "model.instances": None,
    "model.sentinel_weight": 0.5,  # of a fusion
}
"""Changes that change nothing of this map: what the run was told is what is stated."""


def leaves(form: type[BaseModel], at: str = "") -> Iterator[str]:
    for name, field in form.model_fields.items():
        inner = [
            kind
            for kind in (field.annotation, *getattr(field.annotation, "__args__", ()))
            if isinstance(kind, type) and issubclass(kind, BaseModel)
        ]
        if inner and name not in ("period", "periods", "images", "embeddings"):
            yield from leaves(inner[0], f"{at}{name}.")
        else:
            yield f"{at}{name}"


def changed(recipe: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    found = copy.deepcopy(recipe)
    *sections, key = path.split(".")
    place = found
    for section in sections:
        if place.get(section) is None:
            place[section] = {}
        place = place[section]
    if path.startswith("area."):
        place.clear()
    place[key] = value
    return found


def test_every_key_is_in_one_list() -> None:
    listed = [*STALE, *GIVEN, *NOTHING]
    assert len(listed) == len(set(listed))
    assert set(listed) == set(leaves(LczRecipe))
    assert {path.partition(".")[0] for path in GIVEN} == set(AS_GIVEN)


def test_any_change_without_a_run_is_refused_or_stated(
    mapped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = yaml.safe_load((mapped / "recipe.yaml").read_text())
    told: list[dict[str, Any]] = []

    def write(folder: Path, form: Any, box: Any, read: Any, facts: Facts, **more: Any) -> Path:
        told.append(dict(facts.recipe))
        said = Publication(**(facts.recipe["publication"] or {}))
        own = facts.rights.own
        assert (own.licence, own.attribution) == (said.licence, said.attribution)
        return folder

    monkeypatch.setattr(module, "write_product", write)
    engine.publish(recipe, base=mapped)
    [first] = told
    published = []
    for path, value in STALE.items():
        with suppress(NatmapError):
            engine.publish(changed(recipe, path, value), base=mapped)
            published.append(path)
    assert not published
    for path, value in (GIVEN | NOTHING).items():
        if value is None:
            continue
        engine.publish(changed(recipe, path, value), base=mapped)
        given = changed(first, path, value) if path in GIVEN else first
        if path.startswith("publication."):  # keys that are not given are there, and None
            given["publication"] = Publication(**given["publication"]).model_dump()
        assert told[-1] == given, path


def test_items_are_those_of_the_runs_and_not_of_a_file_at_hand(mapped: Path) -> None:
    recipe = mapped / "recipe.yaml"
    then = json.loads((mapped / "product" / "report.json").read_text())
    beside = mapped / "store.items.parquet"
    write_snapshot(read_snapshot(beside)[:1], beside)
    engine.publish(recipe)
    now = json.loads((mapped / "product" / "report.json").read_text())
    assert now["items"] == then["items"]
    assert len(now["items"]) > 1
    beside.unlink()
    engine.publish(recipe)
    assert json.loads((mapped / "product" / "report.json").read_text())["items"] == then["items"]


def test_terms_that_images_are_given_later_are_stated_after_a_run_of_nothing(mapped: Path) -> None:
    recipe = mapped / "recipe.yaml"
    source = Path(yaml.safe_load(recipe.read_text())["imagery"]["catalog"]).parent
    features = [json.loads(path.read_text()) for path in sorted(source.glob("S2*.json"))]
    for feature in features:
        feature["properties"]["providers"] = [{"name": "A city", "roles": ["licensor"]}]
        for asset in feature["assets"].values():
            asset["href"] = str(source / asset["href"])
    catalog = mapped / "catalog.json"
    catalog.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    imagery = yaml.safe_load(recipe.read_text())["imagery"] | {"catalog": str(catalog)}
    change_recipe(recipe, imagery=imagery)
    assert shared.run(recipe).done == 0
    engine.publish(recipe)
    report = json.loads((mapped / "product" / "report.json").read_text())
    assert [terms["attribution"] for terms in report["rights"]["sources"]] == ["A city"]
    assert [run["run"] for run in report["runs"]] == [1]  # the second made nothing


def test_a_product_stands_alone(mapped: Path) -> None:
    """No link of it leads to this machine, and what it links to is there."""
    recipe = yaml.safe_load((mapped / "recipe.yaml").read_text())
    engine.publish(changed(recipe, "publication.licence", "CC-BY-4.0"), base=mapped)
    product = mapped / "product"
    for path in [product / "collection.json", *(product / "items").iterdir()]:
        told = json.loads(path.read_text())
        entries = [*told["links"], *told.get("assets", {}).values()]
        assert {entry["rel"] for entry in told["links"]} >= {"root"}
        for href in (entry["href"] for entry in entries):
            assert (path.parent / href).is_file()
        assert told.get("license") or told["properties"]["license"] == "CC-BY-4.0"
    report = json.loads((product / "report.json").read_text())
    assert {p.stem for p in (product / "sources").iterdir()} == set(report["items"])
    for path in product.rglob("*.json"):
        assert str(mapped) not in path.read_text()
    with rasterio.open(product / f"{report['name']}.tif") as file:
        assert "CC-BY-4.0" in file.tags()["TIFFTAG_COPYRIGHT"]
    assert load_card(product / "model").name == "lcz-made-up"
    with pytest.raises(PublishError, match="within one another"):
        engine.publish(changed(recipe, "publish", "store/product"), base=mapped)


def test_a_run_of_which_a_part_is_done_states_what_made_each_part(mapped: Path) -> None:
    """Two of three dates in one tile, three in all others: all three went in."""
    recipe = yaml.safe_load((mapped / "recipe.yaml").read_text())
    then = json.loads((mapped / "product" / "report.json").read_text())
    shorter = changed(recipe, "imagery.period", "2021-09-26/2021-10-02")
    shared.run(shorter, base=mapped, tiles=["r0001c0001"])
    with pytest.raises(PublishError, match="--as-made"):
        engine.publish(recipe, base=mapped)
    engine.publish(shorter, base=mapped, as_made=True)
    now = json.loads((mapped / "product" / "report.json").read_text())
    frozen = {item.id for item in read_snapshot(mapped / "store.items.parquet")}
    assert frozen < set(now["items"])
    assert now["items"] == then["items"]
    assert [run["tiles"] for run in now["runs"]] == [then["runs"][0]["tiles"] - 1, 1]


def test_on_request_both_are_stated(mapped: Path) -> None:
    recipe = yaml.safe_load((mapped / "recipe.yaml").read_text())
    then = json.loads((mapped / "product" / "report.json").read_text())
    other = changed(recipe, "filter.method", "majority")
    with pytest.raises(PublishError, match=r"map: \d+ tiles, changed .*method(.|\n)*--as-made"):
        engine.publish(other, base=mapped)
    assert json.loads((mapped / "product" / "report.json").read_text()) == then
    engine.publish(other, base=mapped, as_made=True)
    now = json.loads((mapped / "product" / "report.json").read_text())
    assert now["recipe"] == then["recipe"]
    assert now["model"] == then["model"]
    assert "not by the recipe that it was published with (map: " in now["notes"][-1]
    shorter = changed(recipe, "imagery.period", "2021-09-26/2021-10-02")
    engine.publish(shorter, base=mapped, as_made=True)
    now = json.loads((mapped / "product" / "report.json").read_text())
    assert now["period"] == then["period"]
    item = json.loads(next((mapped / "product" / "items").glob("*.json")).read_text())
    assert item["properties"]["end_datetime"][:10] == then["period"][1]
