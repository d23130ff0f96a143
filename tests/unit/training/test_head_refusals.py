"""What heads and propagations refuse, in which words, before anything is fitted or written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import rasterio
import shapely
from support.cities import CELL, CRS, SIDE, TILE, WEST, embed, label
from support.refusals import refused

from engine.datasets.embedded import open_embedded, require_one_embedding
from engine.datasets.pseudo_labels import LABELS
from engine.errors import CardError, LabelError, RecipeError
from engine.features.source import HERE
from engine.products.registry import load_training
from engine.recipes.propagating import EmbeddedCity, load_propagation_recipe
from engine.training.propagation import propagate_labels
from engine.training.train import train

BANDS = ("B02", "B03", "B04", "B08")
NORTH = 5_120_000 + SIDE * CELL
VERBS = ("train", "propagate")


@pytest.fixture(scope="module")
def cities(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three cities of statistics of four bands, far apart; the first one's labels again."""
    folder = tmp_path_factory.mktemp("cities")
    for k, name in enumerate("abc"):
        embed(folder, name, k, kind="float32", bands=BANDS, west=WEST + k * 96_000)
        label(folder, name, k, west=WEST + k * 96_000)
    return folder


def entries(names: str = "abc") -> list[dict[str, Any]]:
    return [{"recipe": f"{name}.yaml", "raster": f"{name}.tif"} for name in names]


def begun(verb: str, base: Path, out: Path, wanted: list[Any], **more: Any) -> Callable[[], object]:
    """A training or a propagation of cities, to be called."""
    told = {"name": "x", "cities": wanted, "out": str(out), **more}
    if verb == "train":
        head = {"product": "embedding", **told}
        return lambda: train(load_training(head), base=base)
    return lambda: propagate_labels(load_propagation_recipe(told), base=base)


def squares_of(path: Path, values: list[Any], field: str = "lcz") -> None:
    """Areas of 2 km on the ground of city a, one for each value."""
    shapes = [
        shapely.box(WEST + k * 3200, NORTH - 3200, WEST + k * 3200 + 2000, NORTH - 1000)
        for k in range(len(values))
    ]
    geopandas.GeoDataFrame({field: values}, geometry=shapes, crs=CRS).to_crs("EPSG:4326").to_file(
        path
    )


# -- features and channels that no head can compute ---------------------------------------------


def test_openstreetmap_in_a_heads_recipe(cities: Path, tmp_path: Path) -> None:
    told = {"name": "x", "product": "embedding", "out": str(tmp_path / "m")}
    told["cities"] = [{**entries("a")[0], "osm": {"path": "a.osm.pbf"}}]
    with pytest.raises(RecipeError, match=r"osm labels cells in natmap propagate; name its folder"):
        load_training(told)


def test_features_of_openstreetmap_in_the_embedding(cities: Path, tmp_path: Path) -> None:
    embed(tmp_path, "o", 0, kind="float32", bands=BANDS, more=("osm.water", "osm.known"))
    label(tmp_path, "o", 0)
    refused(
        LabelError,
        begun("train", tmp_path, tmp_path / "m", entries("o")),
        "the features of the embedding are no statistics of bands",
        "osm.water, osm.known",
        "B02_mean, B03_mean, B04_mean, B08_mean, B02_std … and no others",
        "embed without features, and natmap embed the recipe again",
        unwritten=(tmp_path / "m",),
    )


def test_published_channels_called_as_bands_are(cities: Path, tmp_path: Path) -> None:
    """A card with these names would be fed reflectance."""
    embed(tmp_path, "p", 0, kind="float32", bands=BANDS, published=True)
    label(tmp_path, "p", 0)
    refused(
        LabelError,
        begun("train", tmp_path, tmp_path / "m", entries("p")),
        "the published vectors of p are called as bands of imagery are",
        "B02, B03, B04, B08",
        "channels with names of their own, as A00",
        "write them with other names of channels, and embed them again",
        unwritten=(tmp_path / "m",),
    )


def test_a_model_that_the_recipe_does_not_name(tmp_path: Path) -> None:
    embed(tmp_path, "n", 0)
    label(tmp_path, "n", 0)
    refused(
        CardError,
        begun("train", tmp_path, tmp_path / "m", entries("n")),
        "the embedding was made by a model that its recipe does not name",
        "n: m",
        None,
        "run the embedding again, or name the model in its recipe",
        unwritten=(tmp_path / "m",),
    )


def test_cities_with_files_of_their_own_are_of_one_embedding(tmp_path: Path) -> None:
    """What is of one place alone (its year, its pixel) does not part two cities; a range does."""
    told: dict[str, Any] = {"kind": "heights", "range": [0.0, 655.34], "above": 0.0}
    for name, high, here in (("a", 655.34, 5.0), ("b", 655.34, 20.0), ("c", 100.0, 5.0)):
        features = {"h": {**told, "range": [0.0, high], HERE: {"year": 2020, "pixel": here}}}
        embed(tmp_path, name, 0, bands=BANDS, more=("h.mean", "h.known"), features=features)
    one, other, narrow = (
        open_embedded(EmbeddedCity(recipe=f"{name}.yaml", name=name), tmp_path) for name in "abc"
    )
    require_one_embedding([one, other])
    assert one.digest == other.digest
    refused(
        LabelError,
        lambda: require_one_embedding([one, narrow]),
        "the embeddings of two cities differ in their settings",
        "a: ",
        "one model, one cell and one set of bands for all cities",
        None,
    )


# -- labels of another place --------------------------------------------------------------------


@pytest.mark.parametrize("verb", VERBS)
def test_a_raster_of_another_place(cities: Path, tmp_path: Path, verb: str) -> None:
    wanted = [{"recipe": "a.yaml", "raster": "b.tif"}, *entries("bc")]
    refused(
        LabelError,
        begun(verb, cities, tmp_path / "m", wanted),
        "b.tif labels no cell of the area",
        "no code on any cell",
        None,
        "check its CRS and extent against the recipe's area",
        unwritten=(tmp_path / "m",),
    )


@pytest.mark.parametrize("verb", VERBS)
def test_areas_of_another_place(cities: Path, tmp_path: Path, verb: str) -> None:
    squares_of(tmp_path / "areas.geojson", [2, 6])
    wanted = [{"recipe": "b.yaml", "areas": str(tmp_path / "areas.geojson")}, *entries("ac")]
    refused(
        LabelError,
        begun(verb, cities, tmp_path / "m", wanted),
        "the training areas of b label no cell of its embedding",
        "2 areas give no cell (outside of the map)",
        None,
        "check that they are those of this city",
        unwritten=(tmp_path / "m",),
    )


@pytest.mark.parametrize("verb", VERBS)
def test_labels_on_the_grid_and_outside_of_the_area(
    cities: Path, tmp_path: Path, verb: str
) -> None:
    """The store's grid has whole tiles: more ground than the area."""
    embed(tmp_path, "half", 0, kind="float32", bands=BANDS, inside=0.25)
    with rasterio.open(label(tmp_path, "half", 0), "r+") as file:
        codes = file.read(1)
        codes[:, : SIDE // 2] = 0
        file.write(codes, 1)
    wanted = [{"recipe": str(tmp_path / "half.yaml"), "raster": str(tmp_path / "half.tif")}]
    refused(
        LabelError,
        begun(verb, cities, tmp_path / "m", [*wanted, *entries("bc")]),
        "the labels of half lie outside of the area of its embedding",
        f"{np.count_nonzero(codes)} labelled cells, none of them within",
        "labels on ground that was embedded",
        "check that they are those of this city, or embed a larger area",
        unwritten=(tmp_path / "m",),
    )


@pytest.mark.parametrize("kind", ["points", "nothing"])
def test_held_out_ground_that_is_none(cities: Path, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "held.geojson"
    if kind == "points":
        geopandas.GeoSeries([shapely.Point(12.7, 46.2)], crs="EPSG:4326").to_file(path)
    else:
        path.write_text('{"type": "FeatureCollection", "features": []}')
    refused(
        LabelError,
        begun("train", cities, tmp_path / "m", [{**entries("a")[0], "held": str(path)}]),
        "held.geojson holds no polygons, so no ground is held out",
        "no features" if kind == "nothing" else "1 points left out: only polygons are areas",
        "polygons of the ground that validates or tests",
        "name the file of these polygons, or leave held out",
        unwritten=(tmp_path / "m",),
    )


def test_held_out_ground_of_another_place_is_noted(cities: Path, tmp_path: Path) -> None:
    far = geopandas.GeoSeries([shapely.box(0, 0, 1, 1)], crs="EPSG:4326")
    far.to_file(tmp_path / "far.geojson")
    entry = EmbeddedCity(recipe="a.yaml", held=str(tmp_path / "far.geojson"))
    assert open_embedded(entry, cities).notes == (
        "no polygon of far.geojson holds ground of it out",
    )


# -- too few ------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", VERBS)
def test_one_city_of_one_class(cities: Path, tmp_path: Path, verb: str) -> None:
    label(cities, "one", 0, only=(2,))
    with rasterio.open(cities / "one.tif") as file:
        count = np.count_nonzero(file.read(1))
    wanted = [{"recipe": "a.yaml", "raster": "one.tif"}]
    more = {"split": {"by": "place"}} if verb == "train" else {}
    trained = verb == "train"
    refused(
        LabelError,
        begun(verb, cities, tmp_path / "m", wanted, **more),
        "labels have too few classes to learn from",
        f"{count} labelled cells that train, of classes [2]" if trained else [2],
        "two classes or more" if trained else "2 or more",
        "label cells of other classes or of another city, or look at the split"
        if trained
        else "add labels of other classes, or another city",
        unwritten=(tmp_path / "m",),
    )


def test_all_cities_test(cities: Path, tmp_path: Path) -> None:
    split = {"by": "place", "test": ["a", "b", "c"]}
    refused(
        LabelError,
        begun("train", cities, tmp_path / "m", entries(), split=split),
        "labels have too few classes to learn from",
        "0 labelled cells that train, of classes []",
        "two classes or more",
        "label cells of other classes or of another city, or look at the split",
        unwritten=(tmp_path / "m",),
    )


def test_a_head_cannot_be_tuned_on_two_cities(cities: Path, tmp_path: Path) -> None:
    """Where it is asked for; by default the usual settings are kept, and it is noted."""
    refused(
        LabelError,
        begun("train", cities, tmp_path / "m", entries("ab"), model={"tune": True}),
        "too few cities have labels for a head to be tuned on",
        "2: a, b",
        "3 or more, of which one after another is left out",
        "leave model.tune out, and the usual settings are taken; or label a city",
        unwritten=(tmp_path / "m",),
    )


def test_a_precision_cannot_be_shown_on_two_cities(cities: Path, tmp_path: Path) -> None:
    wanted = [*entries("ab"), {"recipe": "c.yaml"}]
    refused(
        LabelError,
        begun("propagate", cities, tmp_path / "m", wanted, precision=0.8),
        "too few cities have labels to show that pseudo-labels have a precision",
        "precision: 0.8; 2 with labels: a, b",
        "labels in 3 cities or more, of which one after another is left out",
        "label another city, or take preset: notes, which shows nothing",
        unwritten=(tmp_path / "m",),
    )


# -- pseudo-labels of others --------------------------------------------------------------------


@pytest.fixture(scope="module")
def propagated(cities: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("pseudo") / "out"
    begun("propagate", cities, out, entries("ab"), preset="notes")()
    return out


def test_pseudo_labels_of_a_city_that_the_recipe_lacks(
    cities: Path, propagated: Path, tmp_path: Path
) -> None:
    refused(
        LabelError,
        begun("train", cities, tmp_path / "m", entries("ac"), pseudo=str(propagated)),
        "pseudo-labels are of a city that the recipe lacks",
        f"{LABELS}: b",
        "a, c",
        "add it to cities: its vectors are needed",
        unwritten=(tmp_path / "m",),
    )


def test_pseudo_labels_of_other_vectors(propagated: Path, cities: Path, tmp_path: Path) -> None:
    for k, name in enumerate("ab"):
        west = WEST + k * 96_000
        embed(tmp_path, name, k, kind="float32", bands=(*BANDS[:3], "B8A"), west=west)
        label(tmp_path, name, k, west=west)
    digest = open_embedded(EmbeddedCity(recipe="a.yaml"), cities).digest
    other = open_embedded(EmbeddedCity(recipe="a.yaml"), tmp_path).digest
    refused(
        LabelError,
        begun("train", tmp_path, tmp_path / "m", entries("ab"), pseudo=str(propagated)),
        "pseudo-labels were made with other vectors than the cities have",
        f"{LABELS}: {digest[:12]}",
        other[:12],
        "natmap propagate again, with the embeddings of this recipe",
        unwritten=(tmp_path / "m",),
    )


def test_pseudo_labels_of_the_same_city_over_another_area(propagated: Path, tmp_path: Path) -> None:
    """Its name and settings are the same; its cells have other numbers."""
    for k, name in enumerate("ab"):
        west = WEST + k * 96_000 - TILE * (name == "b")
        embed(tmp_path, name, k, kind="float32", bands=BANDS, west=west)
        label(tmp_path, name, k, west=west)
    count = (geopandas.read_parquet(propagated / LABELS)["city"] == "b").sum()
    assert count > 100
    refused(
        LabelError,
        begun("train", tmp_path, tmp_path / "m", entries("ab"), pseudo=str(propagated)),
        "pseudo-labels of b lie elsewhere than its cells",
        "the first 6400 m away",
        "pseudo-labels of this embedding, over this area",
        "natmap propagate again, with the embeddings of this recipe",
        unwritten=(tmp_path / "m",),
    )


# -- types of training areas --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "codes"),
    [
        (["A", "G", "2"], {2, 11, 17}),
        ([101, 107, 2], {2, 11, 17}),
        (["101", "102", "107"], {11, 12, 17}),
        ([2.0, 6.0, 11.0], {2, 6, 11}),
        (["lcz 2", "LCZ-a", " g "], {2, 11, 17}),
    ],
)
def test_types_as_people_write_them(
    cities: Path, tmp_path: Path, values: list[Any], codes: set[int]
) -> None:
    squares_of(tmp_path / "t.geojson", values)
    entry = EmbeddedCity(recipe="a.yaml", areas=str(tmp_path / "t.geojson"))
    found = open_embedded(entry, cities)
    assert set(found.labels["lcz"].tolist()) == codes


@pytest.mark.parametrize(
    ("values", "got"),
    [
        ([101, 108, 2], "108"),
        ([101, 110, 2], "110"),
        ([2.0, float("nan"), 6.0], "None"),
        (["2", None, "6"], "None"),
        ([0, 2, 6], "0"),
        ([2.5, 2.0, 6.0], "2.5"),
        (["H", "A", "2"], "'H'"),
    ],
)
@pytest.mark.parametrize("verb", VERBS)
def test_types_that_are_none(
    cities: Path, tmp_path: Path, verb: str, values: list[Any], got: str
) -> None:
    squares_of(tmp_path / "t.geojson", values)
    wanted = [{"recipe": "a.yaml", "areas": str(tmp_path / "t.geojson")}, *entries("bc")]
    refused(
        LabelError,
        begun(verb, cities, tmp_path / "m", wanted),
        "no LCZ type: t.geojson, field lcz",
        got,
        "1 to 17, A to G, or 101 to 107",
        "name the field that holds the type: --field, or `field` in a recipe of training",
        unwritten=(tmp_path / "m",),
    )
