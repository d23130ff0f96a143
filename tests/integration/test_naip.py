"""Real 1 m imagery, as a smoke test: learnt in West Virginia's hills; California's towns mapped.

The hills are green nearly everywhere, so a map that is green everywhere is as good as any: what is
shown there is that real files go through all of it. In California people marked trees: that is a
witness. The map there is that of the shipped network, which has seen made-up cities only.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import rasterio
import shapely
from pyproj import Transformer
from rasterio.windows import from_bounds
from sklearn.metrics import roc_auc_score
from support.shared import run
from typer.testing import CliRunner

import engine
from engine.cli.app import app
from engine.infer.predict import Predictor
from engine.metrics import binary
from engine.models.card import ModelCard
from engine.models.inputs import prepare_image
from engine.training.train import train

pytestmark = pytest.mark.slow
VEGETATION = (2, 3)  # tree canopy, low vegetation
SPLITS = {"train": (1, 2, 3, 4, 5), "val": (6,), "test": (0, 7)}  # the first has some bare ground


def patches(data: Path) -> list[np.ndarray]:
    """Eight patches: float (29, 256, 256) each."""
    found = []
    for path in sorted((data / "naip-chesapeake").glob("*.npz")):
        with np.load(path, allow_pickle=False) as file:
            found.append(file["arr_0"][0])
    return found


def pixels_of(patch: np.ndarray) -> np.ndarray:
    """Red, green and blue of a patch, uint8 (3, 256, 256)."""
    scale = 255 if patch[:4].max() <= 1 else 1
    found: np.ndarray = (scale * patch[:3]).round().astype(np.uint8)
    return found


@pytest.fixture(scope="module")
def trained(
    data: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[ModelCard, dict[str, float]]:
    """A small network trained on five patches, and its figures on two others."""
    folder = tmp_path_factory.mktemp("naip")
    found = patches(data)
    form = {"driver": "PNG", "height": 256, "width": 256, "dtype": "uint8"}
    for split, numbers in SPLITS.items():
        for kind in ("images", "labels"):
            (folder / "set" / split / kind).mkdir(parents=True)
        for k in numbers:
            image = pixels_of(found[k])
            label = np.where(np.isin(found[k][8], VEGETATION), 255, 0).astype(np.uint8)
            with rasterio.open(
                folder / "set" / split / "images" / f"{k}.png", "w", count=3, **form
            ) as f:
                f.write(image)
            with rasterio.open(
                folder / "set" / split / "labels" / f"{k}.png", "w", count=1, **form
            ) as f:
                f.write(label, 1)
    recipe = {
        "name": "naip-green",
        "product": "ugs",
        "labels": [{"ugset": "set"}],
        "chips": "chips",
        "side": 256,
        "split": {"by": "own"},
        "model": {"architecture": "ugsnet", "size": "small", "parameters": {"points": 2048}},
        "training": {"epochs": 30, "batch": 5, "rate": 2e-3},
        "out": "model",
    }
    made = train(recipe, base=folder)
    assert made.figures is not None
    return made.card, made.figures


def ndvi_figures(data: Path) -> dict[str, float]:
    """A threshold of NDVI, chosen on the same five patches, on the same two others."""
    found = patches(data)

    def index(k: int) -> np.ndarray:
        red, near = found[k][0].astype(float), found[k][3].astype(float)
        return (near - red) / np.maximum(near + red, 1e-6)

    def counts(numbers: tuple[int, ...], threshold: float) -> np.ndarray:
        total = np.zeros((2, 2), np.int64)
        for k in numbers:
            truth = np.isin(found[k][8], VEGETATION)
            pairs = 2 * truth + (index(k) > threshold)
            total += np.bincount(pairs.ravel(), minlength=4).reshape(2, 2)
        return total

    best = max(np.arange(-0.5, 0.6, 0.02), key=lambda t: binary(counts(SPLITS["train"], t))["f1"])
    return binary(counts(SPLITS["test"], float(best)))


@pytest.mark.soak  # minutes of training
@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_vegetation_is_learnt_from_a_few_patches(
    data: Path, trained: tuple[ModelCard, dict[str, float]]
) -> None:
    figures, index = trained[1], ndvi_figures(data)
    share = np.mean([np.isin(patches(data)[k][8], VEGETATION) for k in SPLITS["test"]])
    everywhere = 2 * share / (1 + share)  # F1 of a map that is green everywhere: 0.997
    assert figures["f1"] > everywhere - 0.01
    assert figures["f1"] > index["f1"] - 0.01
    # and what is not green it calls less green than the rest: no map of one value does
    card, predictor = trained[0], Predictor(trained[0], device="cpu")
    truth, told = [], []
    for k in SPLITS["test"]:
        image = pixels_of(patches(data)[k])
        x = prepare_image(image[None], np.ones((1, *image.shape[1:]), bool), card)
        told.append(predictor.segment(x).ravel())
        truth.append(np.isin(patches(data)[k][8], VEGETATION).ravel())
    found = roc_auc_score(np.concatenate(truth), np.concatenate(told))
    assert found > 0.6  # 0.73 was found


def green_at_trees(data: Path, raster: Path, frames: list[str]) -> tuple[float, float]:
    """Share of green where people marked a tree, and of all that is mapped of these frames."""
    with rasterio.open(raster) as file:
        move = Transformer.from_crs("EPSG:26911", file.crs, always_xy=True)
        marked, green, known = [], 0, 0
        for name in frames:
            path = data / "naip-california" / "json" / f"{name}.json"
            features = json.loads(path.read_text())["features"]
            points = np.array([f["geometry"]["coordinates"] for f in features])
            xy = np.column_stack(move.transform(*points.T))
            marked += [int(value[0]) for value in file.sample(xy)]
            here = from_bounds(*xy.min(axis=0), *xy.max(axis=0), file.transform)
            values = file.read(1, window=here.round_offsets().round_lengths())
            green, known = green + (values == 1).sum(), known + (values != 255).sum()
    seen = np.array(marked)
    assert (seen != 255).sum() > 0.98 * seen.size > 50
    return float((seen[seen != 255] == 1).mean()), float(green / known)


@pytest.mark.parametrize("each", [1, pytest.param(5, marks=pytest.mark.soak, id="all")])
def test_a_folder_of_frames_is_mapped(data: Path, tmp_path: Path, each: int) -> None:
    """Each town by itself: one raster of both would be 35 km of nothing between them."""
    names = {t: [f"{t}_2020_{k + 1}" for k in range(each)] for t in ("claremont", "riverside")}
    images = tmp_path / "images"
    images.mkdir()
    for name in (name for frames in names.values() for name in frames):
        (images / f"{name}.tif").symlink_to(data / "naip-california" / "images" / f"{name}.tif")
    words = ["ingest", str(images), "--out", str(tmp_path / "stac"), "--date", "*_{year}_*"]
    said = CliRunner().invoke(app, words)
    assert said.exit_code == 0, said.output
    move = Transformer.from_crs("EPSG:26911", "EPSG:4326", always_xy=True)
    for town, frames in names.items():
        squares = []
        for name in frames:
            with rasterio.open(images / f"{name}.tif") as file:
                squares.append(shapely.box(*file.bounds))
        area = shapely.transform(
            shapely.MultiPolygon(squares), lambda xy: np.column_stack(move.transform(*xy.T))
        )
        (tmp_path / f"{town}.geojson").write_text(shapely.to_geojson(area))
        recipe = {
            "name": town,
            "product": "ugs",
            "area": {"file": f"{town}.geojson"},
            # another projection than the frames', and no whole number of their pixels
            "grid": {"crs": "EPSG:3310", "tile": 500},
            "images": {"catalog": "stac/catalog.json"},
            "model": {"card": "ugs-made-up"},
            "store": f"{town}-store",
            "publish": f"{town}-product",
        }
        assert not run(recipe, base=tmp_path).failed
        product = Path(engine.publish(recipe, base=tmp_path))
        report = json.loads((product / "report.json").read_text())
        assert report["coverage"] > 0.98  # but at the frames' edges
        green = report["area_km2"]["green"]
        both = green + report["area_km2"]["not_green"]
        assert both == pytest.approx(len(squares) * 0.1536**2, rel=0.03)
        at_trees, everywhere = green_at_trees(data, product / f"{town}.tif", frames)
        assert at_trees > 2 * everywhere  # 0.28 and 0.05 were found, 0.53 and 0.12
