"""What is typed at the command: errors name it, and paths are those of where one stands."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from engine.cli.options import read_overrides, read_source
from engine.errors import RecipeError
from engine.products.registry import load_recipe, load_training
from engine.recipes.adapting import load_adapt_recipe

RECIPE: dict[str, Any] = {
    "name": "x",
    "product": "lcz",
    "area": {"bbox": [15.0, 46.9, 15.1, 47.0]},
    "grid": {"crs": "EPSG:32633"},
    "imagery": {"catalog": "c.json", "period": "2023-05-01/2023-05-31"},
    "store": "./store",
}


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe in a folder beside the one that one stands in."""
    for name in ("far", "here"):
        (tmp_path / name).mkdir()
    path = tmp_path / "far" / "recipe.yaml"
    path.write_text(yaml.safe_dump(RECIPE))
    monkeypatch.chdir(tmp_path / "here")
    return path


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("titel=Foo", "--set titel: unknown key"),
        ("grid.tiel=800", "--set grid.tiel: unknown key; did you mean grid.tile?"),
        ("tile=800", "--set tile: unknown key; did you mean grid.tile?"),
        ("grid.tile=-1", "--set grid.tile: Input should be greater"),
        ("grid={crs: 5, tile: 0}", "--set grid.crs"),
        ("grid.tile.x=3", "reaches into a value|--set grid.tile"),
        ("grid.tile={a", "--set grid.tile cannot be read"),
        ("grid.tile=[", "--set grid.tile cannot be read"),
        ("=3", "--set needs key=value"),
        ("grid.=3", "--set needs key=value"),
        ("word", "--set needs key=value"),
    ],
)
def test_errors_name_the_option(recipe: Path, text: str, said: str) -> None:
    with pytest.raises(RecipeError, match=said) as caught:
        load_recipe(recipe, read_overrides([text]))
    assert "recipe.yaml" not in str(caught.value)


def test_errors_of_the_file_still_name_the_file(recipe: Path) -> None:
    recipe.write_text(yaml.safe_dump({**RECIPE, "stroe": "a"}))
    with pytest.raises(RecipeError, match=r"recipe\.yaml is wrong") as caught:
        load_recipe(recipe, read_overrides(["grid.tile=0"]))
    assert "  --set grid.tile: " in str(caught.value)
    assert "  stroe: unknown key; did you mean store?" in str(caught.value)


def test_paths_are_taken_from_where_one_stands(recipe: Path) -> None:
    base, here = recipe.parent, Path.cwd()
    (here / "bare").mkdir()
    given = {
        "store": "./other",
        "publish": "product",
        "imagery.catalog": "bare",
        "model": "{card: ./m}",
        "mask.boundaries": "cities.gpkg",
        "area": "{file: ../here/area.geojson}",
        "images": "{catalog: ./photos}",
    }
    found = load_recipe(recipe, read_overrides([f"{k}={v}" for k, v in given.items()]))
    assert (base / found.store).resolve() == here / "other"
    assert found.publish is not None
    assert (base / found.publish).resolve() == here / "product"
    assert found.mask is not None
    assert (base / found.mask.boundaries).resolve() == here / "cities.gpkg"
    assert found.area.file is not None
    assert (base / found.area.file).resolve() == here / "area.geojson"
    values = found.model_dump(mode="json")
    assert (base / values["imagery"]["catalog"]).resolve() == here / "bare"
    assert (base / values["model"]["card"]).resolve() == here / "m"
    assert (base / values["images"]["catalog"]).resolve() == here / "photos"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("store", "s3://bucket/prefix"),
        ("store", "/elsewhere/store"),
        ("imagery.catalog", "earth-search-c1"),
        ("imagery.catalog", "https://host/catalog.json"),
        ("mask.boundaries", "ne-urban-areas"),
        ("name", "not-a-path"),
    ],
)
def test_names_and_addresses_stay(recipe: Path, key: str, value: str) -> None:
    found: Any = load_recipe(recipe, read_overrides([f"{key}={value}"])).model_dump(mode="json")
    for part in key.split("."):
        found = found[part]
    assert found == value


def test_beside_the_recipe_paths_stay_as_written(
    recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(recipe.parent)
    assert load_recipe(recipe, read_overrides(["store=./other"])).store == "./other"
    # of a mapping of Python's, they are the recipe's as ever
    monkeypatch.chdir("/")
    assert load_recipe(recipe, {"store": "./other"}).store == "./other"


def test_a_link_on_the_way_is_followed(recipe: Path) -> None:
    deep = recipe.parent / "a" / "b"
    deep.mkdir(parents=True)
    Path("link").symlink_to(deep)
    found = load_recipe(recipe, read_overrides(["store=link/../store"]))
    assert (recipe.parent / found.store).resolve() == recipe.parent / "a" / "store"


def test_paths_of_trainings_and_adaptations_too(recipe: Path) -> None:
    from engine.pipeline.templates import init

    here = Path.cwd()
    for name, load, keys in (
        ("train", load_training, ("patches", "out", "model.start")),
        ("train-ugs", load_training, ("chips", "out", "model.imagenet")),
        ("adapt", load_adapt_recipe, ("chips", "out", "target", "model")),
    ):
        recipe.write_text(init(name))
        values: Any = load(recipe, read_overrides([f"{key}=./x" for key in keys]))  # type: ignore[operator]
        for key in keys:
            found = values
            for part in key.split("."):
                found = getattr(found, part)
            assert (recipe.parent / found).resolve() == here / "x", key


def test_a_recipe_from_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    def said(data: bytes) -> Any:
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(data)))
        return read_source(Path("-"))

    assert load_recipe(said(yaml.safe_dump(RECIPE).encode())).name == "x"
    for data, text in ((b"[1]", "not a mapping"), (b"{", "cannot be read"), (b"\xff", "decode")):
        with pytest.raises(RecipeError, match=f"(?s){text}.*standard input|standard input.*{text}"):
            said(data)
    assert read_source(Path("a.yaml")) == Path("a.yaml")
