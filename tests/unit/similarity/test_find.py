"""What is alike is found: changed copies of a patch, cells of an embedding."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
from PIL import Image
from pyproj import Transformer
from scipy.ndimage import rotate
from scipy.spatial.distance import cdist
from support.cards import write_classifier
from support.cities import CRS, SIDE, embed, truth
from support.textures import patch_set, texture, write_frame
from support.textures import scenes as known
from typer.testing import CliRunner

from engine.cli.app import app
from engine.datasets.chips import ChipSet, write_chips
from engine.datasets.patches import write_patches
from engine.errors import LabelError, StoreError
from engine.similarity.descriptors import LOOK, look_of
from engine.similarity.find import FILES, find
from engine.similarity.vectors import cosine

PATCH = 64
SIZES = {"branch": 4, "blocks": [4, 4, 4, 8, 8], "dense": 8}


@pytest.fixture(scope="module")
def photos(data: Path) -> list[np.ndarray]:
    """Real photos of 0.6 m: red, green, blue."""
    found = []
    for path in sorted((data / "naip-california" / "images").glob("*.tif")):
        with rasterio.open(path) as file:
            found.append(file.read([1, 2, 3]))
    return found


def changed(photo: np.ndarray, row: int, col: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Twenty copies of a patch, each changed in another way: turned, in other light, by JPEG."""
    half = PATCH // 2
    here = photo[:, row : row + PATCH, col : col + PATCH]
    wide = photo[:, row - half : row + PATCH + half, col - half : col + PATCH + half]
    copies = [here[:, :, ::-1], *(np.rot90(here, k, (1, 2)) for k in (1, 2, 3))]
    for k in range(16):
        one = here.astype(float)
        if k < 8:
            turned = rotate(wide.astype(float), rng.uniform(5, 355), (1, 2), reshape=False, order=1)
            one = turned[:, half : half + PATCH, half : half + PATCH]
        if 4 <= k < 13:
            one = one * rng.uniform(0.7, 1.3) + rng.uniform(-15, 15)
        one = np.clip(np.rint(one), 0, 255).astype(np.uint8)
        if k >= 7:
            held = io.BytesIO()
            Image.fromarray(np.moveaxis(one, 0, -1)).save(held, "jpeg", quality=60 + 2 * k)
            one = np.moveaxis(np.asarray(Image.open(held)), -1, 0)
        copies.append(one)
    return copies


def chips_of(images: np.ndarray) -> ChipSet:
    n, side = len(images), images.shape[-1]
    return ChipSet(
        images, np.zeros((n, side, side), np.uint8), np.full((n, 2), np.nan),
        np.zeros(n, np.uint16), np.full(n, 255, np.uint8), ("B04", "B03", "B02"), ("set",),
    )  # fmt: skip


@pytest.mark.parametrize("number", [0, 4, 7])
def test_changed_copies_are_found(photos: list[np.ndarray], number: int, tmp_path: Path) -> None:
    row, col = 80, 100
    copies = changed(photos[number], row, col, np.random.default_rng(number))
    others = [
        photo[:, r : r + PATCH, c : c + PATCH]
        for photo in photos
        for r in range(0, 256 - PATCH + 1, PATCH)
        for c in range(0, 256 - PATCH + 1, PATCH)
    ]
    rng = np.random.default_rng(1)
    order = rng.permutation(len(copies) + len(others))
    write_chips(tmp_path / "set", chips_of(np.stack([*copies, *others])[order]))
    here = photos[number][:, row : row + PATCH, col : col + PATCH]
    like = write_frame(tmp_path / "like.tif", here)
    found = find(like, tmp_path / "set", most=40)
    assert len(found) == 40
    assert sum(order[hit.number] < 20 for hit in found) >= 18
    assert [hit.distance for hit in found] == sorted(hit.distance for hit in found)


def test_a_look_is_of_texture_ratios_and_brightness() -> None:
    rng = np.random.default_rng(0)
    rgb = np.stack([texture(k, 60, rng) for k in range(3)])
    valid = np.ones((60, 60), bool)
    look = look_of(rgb, valid)
    assert look.shape == (LOOK,)
    assert look.sum() == pytest.approx(1)
    # twice as bright: textures stay, ratios but for rounding
    assert np.abs(look_of(2 * rgb.astype(np.uint16), valid) - look).sum() / 2 < 0.02
    valid[:, :20] = False
    holed = rgb.copy()
    holed[:, :, :20] = 0
    other = rgb.copy()
    other[:, :, :20] = 200
    np.testing.assert_array_equal(look_of(holed, valid), look_of(other, valid))


def test_images_are_searched_with_a_table_and_a_sheet(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    folder = tmp_path / "photos"
    folder.mkdir()
    for kind in range(4):
        grey = texture(kind, 3 * 48, rng)
        write_frame(folder / f"{kind}.tif", np.repeat(grey[None], 3, 0))
    words = ["find", "2", str(folder), "--side", "48", "--most", "8", "--out", str(tmp_path / "o")]
    told = CliRunner().invoke(app, [*words, "--json"])
    assert told.exit_code == 0, told.output
    hits = json.loads(told.stdout)
    assert {hit["frame"] for hit in hits} == {"0.tif"}  # the other eight of its texture
    assert 2 not in [hit["number"] for hit in hits]
    assert sorted((hit["y"], hit["x"]) for hit in hits) == [
        (48 * r, 48 * c) for r in range(3) for c in range(3) if (r, c) != (0, 2)
    ]
    with (tmp_path / "o" / FILES[0]).open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["number"]) for row in rows] == [hit["number"] for hit in hits]
    with Image.open(tmp_path / "o" / FILES[1]) as sheet:
        assert len(sheet.getcolors(1 << 24) or []) > 50
    plain = CliRunner().invoke(app, words)
    assert len(plain.stdout.splitlines()) == 8
    one, two = (find("2", folder, side=48, most=8, threads=n) for n in (1, 3))
    assert one == two


def test_pixels_of_another_size_are_told_of(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    folder = tmp_path / "photos"
    folder.mkdir()
    for kind in range(2):
        grey = np.repeat(texture(kind, 96, rng)[None], 3, 0)
        write_frame(folder / f"{kind}.tif", grey, 500_000, 5e6, CRS)
    told: list[str] = []
    find(folder / "1.tif", folder, side=48, tell=told.append)
    assert told == []
    half = write_frame(tmp_path / "half.tif", grey, 500_000, 5e6, CRS, 0.5)
    find(half, folder, side=48, tell=told.append)
    assert "pixels of 0.5 m, the patches of 1 m" in told[0]


def test_patches_without_data_are_never_alike(tmp_path: Path) -> None:
    chips, _ = known(12, 48)
    seen = np.ones(chips.y.shape, bool)
    seen[5] = False
    write_chips(tmp_path / "set", replace(chips, seen=seen))
    assert sorted(hit.number for hit in find("0", tmp_path / "set")) == [
        *range(1, 5),
        *range(6, 12),
    ]
    with pytest.raises(LabelError, match="of one colour"):
        find("5", tmp_path / "set")


def test_cells_of_an_embedding_are_ordered_by_their_angle(tmp_path: Path) -> None:
    embed(tmp_path, "city", 1, kind="float32")
    store = tmp_path / "city-store"
    row, col = 12, 33
    x, y = 320_000 + (col + 0.5) * 320, 5_120_000 + (SIDE - row - 0.5) * 320
    lon, lat = Transformer.from_crs(CRS, "EPSG:4326", always_xy=True).transform(x, y)
    found = find(f"{lon:.6f},{lat:.6f}", store, tmp_path / "out", most=50)
    numbers = [hit.number for hit in found]
    assert row * SIDE + col not in numbers
    assert 0 not in numbers  # its vector is unknown
    classes = truth(1).ravel()
    assert (classes[numbers] == classes[row * SIDE + col]).mean() > 0.9
    back = Transformer.from_crs("EPSG:4326", CRS, always_xy=True)
    for hit in found[:5]:
        east, north = back.transform(hit.x, hit.y)
        r, c = divmod(hit.number, SIDE)
        assert east == pytest.approx(320_000 + (c + 0.5) * 320, abs=0.01)
        assert north == pytest.approx(5_120_000 + (SIDE - r - 0.5) * 320, abs=0.01)
    assert (tmp_path / "out" / FILES[0]).is_file()
    with pytest.raises(LabelError, match="like a place"):
        find("12", store)
    with pytest.raises(LabelError, match="has no vector"):
        find("0,0", store)
    with pytest.raises(LabelError, match=r"no longitude,latitude"):
        find("200,50", store)
    with pytest.raises(LabelError, match="by vectors, not by pictures"):
        find("12.7,46.2", store, side=64)
    with pytest.raises(LabelError, match="its own vectors"):
        find("12.7,46.2", store, model=tmp_path)
    embed(tmp_path, "half", 1, ended=False)
    with pytest.raises(StoreError, match="not whole"):
        find("12.7,46.2", tmp_path / "half-store")


def test_cosine_is_scipys_and_of_zeros_it_is_one() -> None:
    rng = np.random.default_rng(0)
    some, one = rng.normal(size=(50, 9)).astype(np.float32), rng.normal(size=9)
    np.testing.assert_allclose(cosine(some, one), cdist(some, one[None], "cosine")[:, 0])
    assert cosine(np.zeros((1, 9)), one).tolist() == [1.0]
    np.testing.assert_array_equal(cosine(some, one)[30:], cosine(some[30:], one))


def test_patches_are_compared_by_a_models_features(tmp_path: Path) -> None:
    card = write_classifier(tmp_path / "net", SIZES, 8)
    found = patch_set(12)
    found = replace(found, x=np.concatenate([found.x, found.x[3:4]]), y=np.ones(13, np.uint8),
        xy=np.zeros((13, 2)), group=np.zeros(13, np.int64), place=np.zeros(13, np.uint16),
        split=np.zeros(13, np.uint8))  # fmt: skip
    write_patches(tmp_path / "set", found)
    hits = find("3", tmp_path / "set", most=3, model=card.folder)
    assert hits[0].number == 12
    assert hits[0].distance == pytest.approx(0, abs=1e-6)
    assert hits[1].distance > 1e-6


def test_what_cannot_be_searched_is_refused(tmp_path: Path) -> None:
    chips, _ = known(8, 48)
    place = tmp_path / "set"
    write_chips(place, chips)
    with pytest.raises(LabelError, match="nothing to search for"):
        find("nowhere.tif", place)
    with pytest.raises(LabelError, match="no such patch"):
        find("8", place)
    with pytest.raises(LabelError, match="no number of hits"):
        find("1", place, most=0)
    with pytest.raises(LabelError, match="no such folder"):
        find("1", tmp_path / "other")
    flat = write_frame(tmp_path / "flat.tif", np.full((3, 60, 60), 9, np.uint8))
    with pytest.raises(LabelError, match="of one colour"):
        find(flat, place)
    tiny = write_frame(tmp_path / "tiny.tif", np.asarray(chips.x[0][:, :8, :8]))
    with pytest.raises(LabelError, match="too small"):
        find(tiny, place)
    grey = write_frame(tmp_path / "grey.tif", np.asarray(chips.x[0][:1]))
    with pytest.raises(LabelError, match="lacks bands"):
        find(grey, place)
    with pytest.raises(LabelError, match="its own bands"):
        find(flat, place, model=write_classifier(tmp_path / "net", SIZES, 8).folder)
