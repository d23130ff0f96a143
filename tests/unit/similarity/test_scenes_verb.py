"""`natmap scenes` on images and sets: its files, its splits, and what it refuses."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import rasterio
import zarr
from PIL import Image
from support.textures import patch_set, texture, write_frame
from support.textures import scenes as known
from typer.testing import CliRunner

from engine.cli.app import app
from engine.datasets.chips import write_chips
from engine.datasets.patches import write_patches
from engine.errors import LabelError
from engine.similarity.descriptors import describe
from engine.similarity.frames import FramePatches
from engine.similarity.scene_files import FILES
from engine.similarity.scenes import scenes
from engine.similarity.source import open_set
from engine.texture.lbp import lbp_counts, luminance

SIDE = 48
UTM = "EPSG:32633"
QUICK: dict[str, Any] = {"repeats": 1, "bandwidth": 0.2}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten images of 3 x 2 patches and a rest, each of one or two textures, side by side."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    (folder / "labels").mkdir()
    for k in range(10):
        parts = [texture((k + (c > 1)) % 4, 3 * SIDE + 5, rng)[:, :SIDE] for c in range(3)]
        grey = np.concatenate(parts, axis=1)[: 2 * SIDE + 5]
        name = f"photo_{k}.tif"
        write_frame(folder / name, np.repeat(grey[None], 3, 0), 500_000 + 1000 * k, 5e6, UTM)
        codes = np.full((1, *grey.shape), 1 + k % 2, np.uint8)
        write_frame(folder / "labels" / name, codes, 500_000 + 1000 * k, 5e6, UTM)
    return folder


def test_the_files_say_what_each_patch_is(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ["scenes", str(photos), "--out", str(out), "--side", str(SIDE), "--repeats", "1"]
    found = CliRunner().invoke(app, [*words, "--bandwidth", "0.2", "--labels", f"{photos}/labels"])
    assert found.exit_code == 0, found.output
    assert sorted(p.name for p in out.iterdir()) == sorted(FILES)
    table = pandas.read_parquet(out / "patches.parquet")
    assert len(table) == 10 * 6
    assert set(table.frame) == {f"photo_{k}.tif" for k in range(10)}
    assert table.loc[table.frame == "photo_3.tif", ["row", "col"]].to_numpy().tolist() == [
        [row * SIDE, col * SIDE] for row in range(2) for col in range(3)
    ]
    with rasterio.open(photos / "photo_3.tif") as file:
        image = file.read(1)[SIDE : 2 * SIDE, SIDE : 2 * SIDE]
    mine = table[(table.frame == "photo_3.tif") & (table.row == SIDE) & (table.col == SIDE)]
    counts = lbp_counts(image)
    np.testing.assert_allclose(mine.h_tex.iloc[0], counts / counts.sum())
    assert mine.h_lab.iloc[0].tolist() == [0.0, 1.0]  # codes 1 and 2
    told = json.loads((out / "scenes.json").read_text())
    assert told["settings"]["by"] == "both"
    assert told["codes"] == [1, 2]
    sizes = [each["patches"] for each in told["scenes"]]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes == table.scene[table.scene >= 0].value_counts().sort_index().tolist()
    assert sum(sizes) + told["in_no_scene"] == len(table)
    assert table.groupby("scene").weight.nunique().max() == 1
    with Image.open(out / "scenes.png") as sheet:
        assert sheet.size[1] >= 100 * len(sizes)
        assert len(sheet.getcolors(1 << 24) or []) > 200  # pictures are on it
    assert (out / "scenes.html").read_text().count("data:image/jpeg") >= len(sizes)


def test_whole_images_train_validate_and_test(photos: Path, tmp_path: Path) -> None:
    scenes(photos, tmp_path, side=SIDE, shares=(0.5, 0.25, 0.25), **QUICK)
    table = pandas.read_parquet(tmp_path / "patches.parquet")
    assert table.groupby("frame").split.nunique().max() == 1
    assert set(table.split) == {"train", "validation", "test"}
    assert (table.split == "train").mean() == pytest.approx(0.5, abs=0.15)


def test_images_of_the_same_ground_are_in_one_split(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    folder = tmp_path / "photos"
    folder.mkdir()
    for k in range(8):  # each laps over the next but one, as strips of a flight do
        west = 500_000 + 80 * (k // 2) + 100_000 * (k % 2)
        grey = texture(k % 4, 2 * SIDE, rng)
        write_frame(folder / f"{k}.tif", np.repeat(grey[None], 3, 0), west, 5e6, UTM)
    ground = FramePatches(folder, SIDE).grounds()
    assert ground.tolist() == [0, 1] * 4
    told: list[str] = []
    scenes(folder, tmp_path / "out", side=SIDE, tell=told.append, **QUICK)
    table = pandas.read_parquet(tmp_path / "out" / "patches.parquet")
    even = table.frame.str[0].astype(int) % 2 == 0
    assert table[even].split.nunique() == table[~even].split.nunique() == 1
    assert any("2 separate grounds" in line for line in told)


def test_a_set_keeps_its_split_and_its_order_changes_nothing(tmp_path: Path) -> None:
    chips, _ = known(80, SIDE)
    chips = replace(chips, split=(np.arange(80) % 3).astype(np.uint8))
    order = np.random.default_rng(1).permutation(80)
    moved = replace(
        chips, x=chips.x[order], y=chips.y[order], xy=chips.xy[order], split=chips.split[order]
    )
    tables = []
    for name, each in (("a", chips), ("b", moved)):
        write_chips(tmp_path / name, each)
        scenes(tmp_path / name, tmp_path / f"{name}-out", **QUICK)
        tables.append(pandas.read_parquet(tmp_path / f"{name}-out" / "patches.parquet"))
    first, second = tables
    assert first.split.tolist() == [("train", "validation", "test")[k % 3] for k in range(80)]
    for column in ("scene", "distance", "outlying", "weight", "split", "x", "y"):
        assert second[column].tolist() == first[column].iloc[order].tolist(), column
    manifests = [json.loads((tmp_path / f"{n}-out/scenes.json").read_text()) for n in "ab"]
    assert manifests[0]["scenes"] == manifests[1]["scenes"]
    sheets = [(tmp_path / f"{name}-out/scenes.html").read_text() for name in "ab"]
    assert (
        sheets[0].replace("<h1>a:", "<h1>b:").partition("</title>")[2]
        == (sheets[1].partition("</title>")[2])
    )


def test_luminance_is_that_of_the_standard() -> None:
    rgb = np.array([[[10, 255]], [[200, 255]], [[90, 255]]], np.uint8)
    assert luminance(rgb).tolist() == [[round(0.299 * 10 + 0.587 * 200 + 0.114 * 90), 255]]


def test_patches_of_composites_have_a_texture(tmp_path: Path) -> None:
    found = patch_set(24)
    write_patches(tmp_path / "set", found)
    source = open_set(tmp_path / "set")
    assert source is not None
    counts = lbp_counts((found.x[5, 0, 4:-4, 4:-4].astype(int)) - 1000)
    np.testing.assert_array_equal(describe(source).texture[5], counts)
    with pytest.raises(LabelError, match="no labels of pixels"):
        scenes(tmp_path / "set", by="labels")


def test_unseen_pixels_and_patches_take_no_part(tmp_path: Path) -> None:
    chips, _ = known(60, SIDE)
    seen = np.ones(chips.y.shape, bool)
    seen[3, :10] = False  # more than a tenth
    seen[4, 0, 0] = False
    labels = chips.y.copy()
    labels[5] = 255
    write_chips(tmp_path / "set", replace(chips, seen=seen, y=labels))
    source = open_set(tmp_path / "set")
    assert source is not None
    found = describe(source)
    assert sorted(set(range(60)) - set(found.rows.tolist())) == [3, 5]
    assert len(found.notes) == 2
    assert found.labels is not None
    assert found.labels[found.rows == 4].sum() == SIDE**2 - 1


def refused(folder: Path, words: str, **more: Any) -> None:
    """It is said before anything is written."""
    out = folder.parent / "refused"
    with pytest.raises(LabelError, match=words):
        scenes(folder, out, **({"side": SIDE, **QUICK} | more))
    assert not out.exists()


def test_images_that_will_not_do_are_refused(photos: Path, tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", "no such folder")
    folder = tmp_path / "photos"
    folder.mkdir()
    refused(folder, "no images in the folder")
    rng = np.random.default_rng(0)
    grey = np.repeat(texture(0, 6 * SIDE, rng)[None], 3, 0)
    write_frame(folder / "a.tif", grey[:2])
    refused(folder, "lacks bands")
    write_frame(folder / "a.tif", grey.astype(np.float32))
    refused(folder, "another type")
    write_frame(folder / "a.tif", grey)
    refused(folder, "smaller than a patch", side=512)
    refused(folder, "too small for a texture", side=12)
    refused(folder, "does not have these bands", bands=[1, 2, 4])
    refused(folder, "too few patches", side=2 * SIDE)
    refused(folder, "too few patches", method="kmeans", count=30, bandwidth=None)
    refused(folder, "no labels of pixels", by="both")
    refused(folder, "cannot go by", by="colour")
    refused(folder, "no such folder of labels", labels=tmp_path / "nowhere")
    refused(folder, "has no labels", labels=photos / "labels")
    refused(folder, "must sum to 1", shares=(0.5, 0.1, 0.1))
    write_frame(folder / "b.tif", grey.astype(np.uint16))
    refused(folder, "different types")
    write_frame(folder / "b.tif", np.full_like(grey, 7))
    refused(folder, "of one colour")
    (folder / "b.tif").write_text("no image")
    refused(folder, "cannot be read")


def test_labels_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    folder, labels = tmp_path / "photos", tmp_path / "labels"
    folder.mkdir()
    labels.mkdir()
    grey = np.repeat(texture(0, 6 * SIDE, np.random.default_rng(0))[None], 3, 0)
    write_frame(folder / "a.tif", grey, 500_000, 5e6, UTM)
    codes = np.ones((1, 6 * SIDE, 6 * SIDE), np.uint8)
    write_frame(labels / "a.tif", codes[:, 1:], 500_000, 5e6, UTM)
    refused(folder, "do not lie on the pixels", labels=labels)
    write_frame(labels / "a.tif", codes, 500_001, 5e6, UTM)
    refused(folder, "do not lie on the pixels", labels=labels)
    write_frame(labels / "a.tif", codes * np.float32(1.5), 500_000, 5e6, UTM)
    refused(folder, "not codes", labels=labels)
    write_frame(labels / "a.tif", codes.astype(np.int16) * 300, 500_000, 5e6, UTM)
    refused(folder, "not codes", labels=labels)
    write_frame(labels / "a.tif", codes * 0, 500_000, 5e6, UTM)
    refused(folder, "no patch is left", labels=labels, unknown=[0])


def test_sets_that_will_not_do_are_refused(tmp_path: Path) -> None:
    chips, _ = known(40, SIDE)
    folder = tmp_path / "set"
    write_chips(folder, replace(chips, bands=("B08", "B04", "B03")))
    refused(folder, "lack bands")
    write_chips(folder, chips)
    refused(folder, "labels and bands of a set are its own", bands=[1, 2, 3])
    refused(folder, "as they were cut", side=64)
    write_chips(folder, replace(chips, x=np.full_like(chips.x, 9)))
    refused(folder, "of one colour")
    nobody = np.zeros(0, np.intp)
    empty = {n: getattr(chips, n)[nobody] for n in ("x", "y", "xy", "place", "split")}
    write_chips(folder, replace(chips, **empty))
    refused(folder, "the set is empty")
    write_patches(folder, patch_set(8, x=np.zeros((8, 3, 40, 40), np.float32)))
    refused(folder, "published vectors")
    zarr.open_group(str(tmp_path / "other"), mode="w")
    refused(tmp_path / "other", "neither a chip set nor a patch set")
