"""Polygons and cards of cities: what is taken, what is refused, and whose a pixel is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from support.cards import write_segmenter

from engine.errors import CardError, NatmapError, RecipeError, WeightsError
from engine.grid.area import Area
from engine.grid.grid import Grid, Tile
from engine.models.card import load_card
from engine.products.cities import Cities, shares_of
from engine.recipes.sections import WindowModel

CRS = "EPSG:32633"
X, Y = 500_000.0, 5_200_000.0
AREA = Area(shapely.box(X, Y, X + 400, Y + 400), CRS)
GRID = Grid.fit(AREA.bounds(), crs=CRS, tile_size=200.0)


@pytest.fixture(scope="module")
def cards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cards")
    for seed, name in enumerate(("rest", "a", "b")):
        write_segmenter(folder / name, patch=64, overlap=16, seed=seed)
    write_segmenter(folder / "wide", patch=128, overlap=32)
    return folder


def square(x: float, y: float, side: float = 100.0) -> Any:
    return shapely.box(X + x, Y + y, X + x + side, Y + y + side)


def write(path: Path, *cities: tuple[Any, dict[str, Any]], crs: str = CRS) -> Path:
    features = [
        {"type": "Feature", "properties": p, "geometry": json.loads(shapely.to_geojson(s))}
        for s, p in cities
    ]
    told = {"type": "name", "properties": {"name": f"urn:ogc:def:crs:{crs.replace(':', '::')}"}}
    path.write_text(json.dumps({"type": "FeatureCollection", "crs": told, "features": features}))
    return path


def cities_of(cards: Path, *cities: tuple[Any, dict[str, Any]], **more: Any) -> Cities:
    write(cards / "cities.geojson", *cities)
    choice = WindowModel(card="rest", cities="cities.geojson", **more)
    found = Cities(choice, load_card(cards / "rest"), AREA, cards)
    found.bind(GRID)
    return found


A = square(50, 50), {"name": "A", "card": "a"}
B = square(150, 50), {"name": "B", "card": "./b/card.json"}


@pytest.mark.parametrize(
    ("cities", "kind", "words"),
    [
        ([A, (square(140, 50), B[1])], RecipeError, r"overlap(.|\n)*A and B"),
        ([A, (A[0], B[1])], RecipeError, r"overlap(.|\n)*A and B"),
        ([(square(5000, 0), A[1])], RecipeError, "none of the cities lies in the area"),
        ([(A[0], {"name": "A"})], RecipeError, "no field card"),
        ([A, (B[0], {"name": "B"})], RecipeError, r"city B names no card(.|\n)*None"),
        ([(A[0], {"name": "A", "card": "  "})], RecipeError, "names no card"),
        ([(A[0], {"name": "A", "card": 7})], RecipeError, "names no card"),
        ([(A[0], {"name": "A", "card": "gone"})], CardError, "no card for city A"),
        ([(A[0], {"name": "A", "card": "./gone"})], CardError, "card of city A cannot be used"),
        ([(A[0], {"name": "A", "card": "a/../../x"})], RecipeError, "outside the file's folder"),
        ([(A[0], {"name": "A", "card": "~/x"})], RecipeError, "shell"),
        ([(A[0], {"name": "A", "card": "a\0b"})], RecipeError, "NUL"),
        ([(A[0], {"name": "A", "card": "a/model.safetensors"})], WeightsError, "not a card"),
        ([(A[0], {"name": "A", "card": "lcz-made-up"})], CardError, "is of no segmenter"),
        (
            [(A[0], {"name": "A", "card": "wide"})],
            CardError,
            r"does not fit(.|\n)*wide: patch 128; overlap 32(.|\n)*rest: patch 64; overlap 16",
        ),
        ([A, (B[0], {"name": "A", "card": "b"})], RecipeError, "two cities have one name"),
        ([(A[0], {"name": None, "card": "a"})], RecipeError, "a city has no name"),
        ([(A[0], {"name": 3, "card": "a"})], RecipeError, "a city has no name"),
        ([(A[0], {"name": "A\nB", "card": "a"})], RecipeError, "cannot have this name"),
        ([(A[0], {"card": "a"})], RecipeError, "no field name"),
        ([A, (shapely.Point(X, Y), B[1])], RecipeError, "city B has no polygon"),
        ([], RecipeError, "holds no polygons"),
    ],
)
def test_what_does_not_serve_is_refused(
    cards: Path, cities: list[Any], kind: type[NatmapError], words: str
) -> None:
    with pytest.raises(kind, match=words):
        cities_of(cards, *cities)


def test_damaged_weights_of_a_city_are_found_before_work(cards: Path, tmp_path: Path) -> None:
    write_segmenter(tmp_path / "rest", patch=64, overlap=16)
    write_segmenter(tmp_path / "a", patch=64, overlap=16, seed=1)
    file = tmp_path / "a" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(WeightsError):
        cities_of(tmp_path, A)
    with pytest.raises(RecipeError, match="there is no such file of model"):
        Cities(
            WindowModel(card="rest", cities="no.gpkg"), load_card(cards / "rest"), AREA, tmp_path
        )


def test_an_absolute_path_and_a_city_elsewhere_are_taken(cards: Path) -> None:
    far = square(90_000, 0), {"name": "Far", "card": "nowhere"}
    found = cities_of(cards, (A[0], {"name": " A ", "card": str(cards / "a")}), far)
    assert list(found.cards) == ["A"]
    assert any("1 of 2 cities lie outside the area" in note for note in found.notes)


def test_a_recipe_without_cities_is_written_as_before() -> None:
    assert WindowModel(card="x").model_dump(mode="json") == {
        "card": "x",
        "device": "auto",
        "precision": "float32",
    }
    assert WindowModel(card="x", cities="c").model_dump()["cities"] == "c"


def test_each_pixel_has_one_model(cards: Path) -> None:
    """Also on a border that runs through centres, and in a sliver that two share."""
    first = shapely.box(X + 50, Y + 50, X + 150.5, Y + 150), {"name": "A", "card": "a"}
    second = shapely.box(X + 150, Y + 50, X + 260, Y + 150), {"name": "B", "card": "b"}
    hole = square(200, 80, 20)
    second = second[0] - hole, second[1]
    third = hole, {"name": "C", "card": "a"}  # the same card again
    found = cities_of(cards, second, third, first)
    rest = load_card(cards / "rest")
    keys = {load_card(cards / name).key: name for name in ("rest", "a", "b")}
    n = 200
    wanted = np.random.default_rng(0).random((n, n)) > 0.2
    for row, col in np.ndindex(*GRID.shape):
        tile = Tile(row, col)
        shares, digest = found.near(tile)
        parts = list(shares_of(shares, rest, wanted, GRID, tile))
        assert len({card.key for card, _ in parts}) == len(parts)
        total = sum(mine.astype(int) for _, mine in parts)
        np.testing.assert_array_equal(total, wanted.astype(int))
        west, _, _, north = GRID.tile_bounds(tile)
        owner = np.full((n, n), "rest", object)
        for i in range(n):
            for j in range(n):
                centre = shapely.Point(west + j + 0.5, north - i - 0.5)
                for shape, told in (third, second, first):  # the first by name wins
                    if shape.intersects(centre):
                        owner[i, j] = told["card"]
        for card, mine in parts:
            np.testing.assert_array_equal(mine, wanted & (owner == keys[card.key]))
        counts = found.count(tile, 1.0, wanted)
        assert sum(counts.values()) == (wanted & (owner != "rest")).sum()
        assert (
            bool(digest)
            == bool(shares)
            == any(
                s.intersects(shapely.box(west, north - n, west + n, north))
                for s in (first[0], second[0], third[0])
            )
        )
