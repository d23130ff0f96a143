"""Folders of 1 m images: what they are taken for, and what is refused or left out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from pyproj import Transformer
from shapely.geometry import Point, shape

from engine.catalog.ingest import ingest
from engine.errors import RecipeError

SIDE = 40


def write(path: Path, count: int = 3, **more: Any) -> None:
    form = {
        "driver": "GTiff",
        "height": SIDE,
        "width": SIDE,
        "count": count,
        "dtype": "uint8",
        "crs": "EPSG:26911",
        "transform": Affine(1, 0, 435_000, 0, -1, 3_777_000),
        "photometric": "rgb" if count >= 3 else "minisblack",
        **more,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(path, "w", **form) as file:
        file.write(np.full((count, *file.shape), 90, form["dtype"]))


def assets(folder: Path, name: str) -> dict[str, int]:
    found = json.loads((folder / f"{name}.json").read_text())["assets"]
    return {band: asset["natmap:band"] for band, asset in found.items()}


def test_bands_go_by_their_colours(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    write(photos / "three.tif")
    write(photos / "alpha.tif", 4, alpha="yes", crs="EPSG:26910")
    write(photos / "infrared.tif", 4, alpha="no", crs="EPSG:26912")
    write(photos / "datum.tif", crs="EPSG:4269", transform=Affine(1e-5, 0, -118, 0, -1e-5, 34))
    found = ingest(photos, when="2020-06-01")
    out = found.catalog.parent
    three = {"B04": 1, "B03": 2, "B02": 3}
    assert assets(out, "three") == assets(out, "alpha") == assets(out, "datum") == three
    assert assets(out, "infrared") == {**three, "B08": 4}
    assert found.notes == ("the fourth band beside red, green and blue is taken as near infrared",)
    properties = json.loads((out / "datum.json").read_text())["properties"]
    assert properties["proj:code"] == "EPSG:4269"


def bad(photos: Path) -> None:
    """One file of each kind that will not do."""
    write(photos / "nowhere.tif", crs=None, transform=Affine(1, 0, 0, 0, 1, 0))
    write(photos / "turned.tif", transform=Affine(0.9, 0.4, 435_000, 0.4, -0.9, 3_777_000))
    (photos / "empty.tif").write_bytes(b"")
    write(photos / "palette.tif", 1, photometric="palette")
    with rasterio.open(photos / "palette.tif", "r+") as file:
        file.write_colormap(1, {k: (k, 0, 0, 255) for k in range(256)})
    write(photos / "grey.tif", 1)
    write(photos / "deep.tif", dtype="uint16")
    (photos / "void.tif").write_text('<VRTDataset rasterXSize="0" rasterYSize="0"/>')
    write(photos / "site.tif", crs='LOCAL_CS["of a site",UNIT["metre",1]]')


WORDS = {
    "nowhere": "no georeference",
    "turned": "rotated",
    "empty": "cannot be read",
    "palette": "palette",
    "grey": "no names",
    "site": "cannot be placed",
    "deep": "8 bits",
    "void": "cannot be read",
}


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize("kind", WORDS)
def test_a_file_that_will_not_do_is_named(tmp_path: Path, kind: str) -> None:
    bad(tmp_path / "all")
    photos = tmp_path / "photos"
    photos.mkdir()
    (tmp_path / "all" / f"{kind}.tif").rename(photos / f"{kind}.tif")
    write(photos / "good.tif")
    with pytest.raises(RecipeError, match=WORDS[kind]) as error:
        ingest(photos, when="2020-06-01")
    assert kind in str(error.value)
    assert not (tmp_path / "photos-stac").exists()


def test_eight_bits_that_are_no_image_need_a_scale(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    write(photos / "percent.tif", 2)
    with rasterio.open(photos / "percent.tif", "r+") as file:
        file.descriptions = "B02", "B11"
    with pytest.raises(RecipeError, match=r"8 bits(.|\n)*--scale"):
        ingest(photos, when="2020-06-01")
    assert ingest(photos, when="2020-06-01", scale=0.01).files == 1


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_they_can_be_left_out_and_are_listed(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    bad(photos)
    with pytest.raises(RecipeError, match="7 more of 8 files"):
        ingest(photos, when="2020-06-01")
    for k in range(30):
        write(photos / f"good-{k}.tif", transform=Affine(1, 0, 435_000 + k, 0, -1, 3_777_000))
    found = ingest(photos, when="2020-06-01", skip=True)
    assert found.files == 30
    assert not found.notes
    assert len(found.skipped) == 8
    for kind, words in WORDS.items():
        assert any(kind in text and words in text for text in found.skipped), kind
    catalog = json.loads(found.catalog.read_text())
    assert len(catalog["links"]) == 30


@pytest.mark.parametrize("when", [None, "*_{year}{month}{day}"])
def test_digits_that_are_no_date_are_none(tmp_path: Path, when: str | None) -> None:
    photos = tmp_path / "photos"
    write(photos / "tile_20459999.tif")
    with pytest.raises(RecipeError, match="date cannot be told"):
        ingest(photos, when=when)
    write(photos / "tile_20459999_20200601.tif")
    found = ingest(photos, when=when, skip=True)
    assert found.files == 1
    item = json.loads((found.catalog.parent / "tile_20459999_20200601.json").read_text())
    assert item["properties"]["datetime"].startswith("2020-06-01")


def test_two_files_of_one_name_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "photos" / "a" / "one.tif")
    write(tmp_path / "photos" / "b" / "one.tif")
    with pytest.raises(RecipeError, match="one name"):
        ingest(tmp_path / "photos", when="2020-06-01", skip=True)


def test_files_of_one_frame_and_day_are_said(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    for name in ("a_2020-06-01", "again_2020-06-01", "older_2019-06-01"):
        write(photos / f"{name}.tif")
    write(photos / "beside_2020-06-01.tif", transform=Affine(1, 0, 435_040, 0, -1, 3_777_000))
    [note] = ingest(photos).notes
    assert note.startswith("2 files")
    assert "a_2020-06-01 and again_2020-06-01" in note
    assert "older" not in note
    assert "beside" not in note
    for name in "bcde":
        for k in range(2):
            at = Affine(1, 0, 436_000 + ord(name), 0, -1, 3_777_000)
            write(photos / f"{name}{k}_2020-06-01.tif", transform=at)
    [note] = ingest(photos).notes
    assert note.startswith("10 files")
    assert "c0_2020-06-01 and c1_2020-06-01; …" in note
    assert "d0" not in note


def test_colours_of_more_than_8_bits_are_reflectance_where_bands_are_named(tmp_path: Path) -> None:
    write(tmp_path / "photos" / "deep.tif", dtype="uint16")
    [note] = ingest(tmp_path / "photos", when="2020-06-01", bands=["red", "green", "blue"]).notes
    assert "not as images" in note


def test_the_edges_of_a_wide_file_bend_in_degrees(tmp_path: Path) -> None:
    """800 km at 62 degrees north: the middle of its edge lies 20 km off the line."""
    at = Affine(2000, 0, 100_000, 0, -2000, 6_900_000)
    write(tmp_path / "photos" / "wide.tif", width=400, height=20, crs="EPSG:32633", transform=at)
    out = ingest(tmp_path / "photos", when="2020-06-01").catalog.parent
    footprint = shape(json.loads((out / "wide.json").read_text())["geometry"])
    move = Transformer.from_crs("EPSG:32633", "EPSG:4326", always_xy=True)
    for x in np.linspace(100_000, 900_000, 41):
        for y, inside in ((6_899_900, True), (6_900_100, False), (6_860_100, True)):
            held = footprint.contains(Point(move.transform(min(max(x, 100_100), 899_900), y)))
            assert held is inside
