"""Answers of the labelling page, once they are settled, train, evaluate and propagate."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import rasterio
import shapely
from support.answers import answer
from support.cities import (
    CELL,
    CODES,
    CRS,
    NORTH,
    SIDE,
    WEST,
    composite,
    embed,
    label,
    truth,
)
from typer.testing import CliRunner

import engine
from engine.cli.app import app
from engine.datasets.labelling import label as write_page
from engine.datasets.patches import open_patches
from engine.errors import NatmapError
from engine.labels.settling import settle_labels
from engine.recipes.propagating import load_propagation_recipe
from engine.training.propagation import LABELS, propagate_labels

PLACES = {  # cells of sites, each in a block of its own
    f"{row}/{col}": (row, col) for row in range(2, SIDE, 5) for col in range(2, SIDE, 15)
}
CLASSES = {name: int(truth(0)[place]) for name, place in PLACES.items()}
DISPUTED, DOUBTED, WRONG = list(PLACES)[:3]


def square(row: int, col: int) -> shapely.Polygon:
    west, north = WEST + col * CELL, NORTH - row * CELL
    return shapely.box(west, north - CELL, west + CELL, north)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A city with a composite, an embedding and a map; its sites are answered by two people."""
    folder = tmp_path_factory.mktemp("answered")
    composite(folder, "a", 0)
    embed(folder, "a", 0)
    embed(folder, "b", 1)
    label(folder, "b", 1)
    ground = [square(*cell).centroid for cell in PLACES.values()]
    sites = geopandas.GeoDataFrame({"id": list(PLACES)}, geometry=ground, crs=CRS)
    sites.to_crs("EPSG:4326").to_file(folder / "sites.geojson")
    page = write_page(folder / "sites.geojson", folder / "a-map.yaml", folder / "page.html").page
    others = {name: code for name, code in CLASSES.items() if name != DOUBTED}
    answer(page, folder, "Ada", CLASSES, [DOUBTED])
    answer(page, folder, "Bo", others | {DISPUTED: 6 if CLASSES[DISPUTED] != 6 else 2})
    files = [str(folder / "a-Ada.geojson"), str(folder / "a-Bo.geojson")]
    args = ["label", *files, "--page", str(page), "--to", str(folder / "areas.gpkg")]
    result = CliRunner().invoke(app, args)
    assert result.exit_code == 0, result.output
    assert f"{len(PLACES) - 2} labels, 2 in dispute" in result.output
    codes = truth(0)
    codes[PLACES[WRONG]] = next(code for code in CODES if code != CLASSES[WRONG])
    form = {"height": SIDE, "width": SIDE, "count": 1, "dtype": "uint8", "crs": CRS, "nodata": 0}
    with rasterio.open(
        folder / "map.tif", "w", driver="GTiff",
        transform=rasterio.Affine(CELL, 0, WEST, 0, -CELL, NORTH), **form,
    ) as file:  # fmt: skip
        file.write(codes, 1)
    return folder


def known() -> dict[str, int]:
    """Sites with a label."""
    return {name: code for name, code in CLASSES.items() if name not in (DISPUTED, DOUBTED)}


def training(areas: str | Path, out: Path) -> dict[str, Any]:
    return {
        "name": "net", "product": "lcz", "patches": str(out / "patches"), "context": 0,
        "labels": [{"recipe": "a-map.yaml", "areas": str(areas)}],
        "split": {"by": "group", "shares": [0.6, 0.2, 0.2]},
        "model": {"architecture": "forest"}, "out": str(out / "net"),
    }  # fmt: skip


def propagation(areas: str | Path, out: Path) -> Any:
    cities = [{"recipe": "a.yaml", "areas": str(areas)}, {"recipe": "b.yaml", "raster": "b.tif"}]
    return load_propagation_recipe(
        {"name": "p", "preset": "notes", "cities": cities, "out": str(out / "pseudo")}
    )


def test_a_forest_is_trained_on_the_settled_sites_alone(place: Path, tmp_path: Path) -> None:
    made = engine.train(training("areas.gpkg", tmp_path), base=place)
    assert made.card.architecture == "forest"
    found = open_patches(tmp_path / "patches")
    seen = set()
    for (x, y), code in zip(found.xy, found.y, strict=True):
        row, col = int((NORTH - y) // CELL), int((x - WEST) // CELL)
        name = f"{row}/{col}"
        assert known()[name] == code
        seen.add(name)
    assert seen == set(known())
    report = json.loads((tmp_path / "net" / "report.json").read_text())
    assert report["test"]["oa"] > 0.9  # the composite tells the classes


def test_a_map_is_evaluated_on_the_settled_sites(place: Path) -> None:
    found = engine.evaluate(place / "map.tif", place / "areas.gpkg")
    expected = np.zeros((17, 17), int)
    with rasterio.open(place / "map.tif") as file:
        codes = file.read(1)
    for name, code in known().items():
        expected[code - 1, codes[PLACES[name]] - 1] += 1  # a site is one cell of this map
    np.testing.assert_array_equal(found.counts, expected)
    assert found.accuracy.oa == pytest.approx(1 - 1 / len(known()))


def test_an_embedding_s_cells_are_labelled_by_the_settled_sites(
    place: Path, tmp_path: Path
) -> None:
    propagate_labels(propagation("areas.gpkg", tmp_path), base=place)
    frame = geopandas.read_parquet(tmp_path / "pseudo" / LABELS)
    mine = frame[(frame["city"] == "a") & (frame["source"] == "label")]
    told = {
        f"{cell // SIDE}/{cell % SIDE}": code
        for cell, code in zip(mine["cell"], mine["code"], strict=True)
    }
    assert told == known()


def changed(place: Path, change: Callable[[geopandas.GeoDataFrame], Any], out: Path) -> Path:
    frame = geopandas.read_file(place / "areas.gpkg")
    path = out / "changed.gpkg"
    change(frame).to_file(path, layer="labels")
    return path


def _elsewhere(frame: geopandas.GeoDataFrame) -> geopandas.GeoDataFrame:
    return frame.set_geometry(frame.geometry.translate(2.0, 0))


def _legend(frame: geopandas.GeoDataFrame) -> geopandas.GeoDataFrame:
    return frame.assign(lcz=frame["lcz"] + 20)  # of another legend


BAD: dict[str, tuple[Callable[[Path, Path], Path], str]] = {
    "answers that nobody settled": (
        lambda place, out: place / "a-Ada.geojson", "holds answers of interpreters, not labels",
    ),
    "another grid": (
        lambda place, out: changed(place, _elsewhere, out),
        "no patch of a can be cut|share no cell|label no cell",
    ),
    "another legend": (lambda place, out: changed(place, _legend, out), "no LCZ type"),
    "an empty file": (
        lambda place, out: changed(place, lambda frame: frame.iloc[:0], out),
        "does not tell types apart",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_what_is_not_a_settled_label_is_refused_everywhere(
    place: Path, tmp_path: Path, what: str
) -> None:
    make, words = BAD[what]
    areas = make(place, tmp_path)
    with pytest.raises(NatmapError, match=words):
        engine.train(training(areas, tmp_path), base=place)
    with pytest.raises(NatmapError, match=words):
        engine.evaluate(place / "map.tif", areas)
    with pytest.raises(NatmapError, match=words):
        propagate_labels(propagation(areas, tmp_path), base=place)
    assert not (tmp_path / "net").exists()
    assert not (tmp_path / "pseudo" / LABELS).exists()


def test_a_site_twice_counts_once_and_two_classes_of_it_count_nothing(
    place: Path, tmp_path: Path
) -> None:
    def twice(frame: geopandas.GeoDataFrame) -> geopandas.GeoDataFrame:
        rows = [frame, frame, frame[frame["site"] == WRONG].assign(lcz=9)]
        return geopandas.pd.concat(rows, ignore_index=True)

    found = engine.evaluate(place / "map.tif", changed(place, twice, tmp_path))
    assert found.counts.sum() == len(known()) - 1
    assert found.accuracy.oa == 1  # the one that the map has wrong
    assert any("found twice, taken once" in note for note in found.notes)
    assert any("overlap by 100%" in note for note in found.notes)


def test_one_who_answers_twice_is_refused_before_labels_are_written(
    place: Path, tmp_path: Path
) -> None:
    file = place / "a-Ada.geojson"
    with pytest.raises(NatmapError, match="twice"):
        settle_labels([file, file], tmp_path / "areas.gpkg")
    assert not (tmp_path / "areas.gpkg").exists()
