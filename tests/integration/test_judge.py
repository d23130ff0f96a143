"""A sample drawn on a finished map: what it estimates, against the truth of a made-up country."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from rasterio.transform import from_origin
from typer.testing import CliRunner

import engine
from engine.cli.app import app
from engine.compare.estimates import stratified
from engine.compare.sample import judge, sample
from engine.errors import LabelError, MetricError
from engine.labels.design import allocate, draw
from engine.synthetic.districts import World
from engine.synthetic.truth import survey


@pytest.fixture(scope="module")
def truth() -> np.ndarray:
    """The zones of 16 km2 of a made-up country, nine times: to survey 144 km2 is dear."""
    return np.tile(survey(World(8), 0, 0, 40, 40).lcz.astype(np.uint8), (3, 3))


@pytest.fixture(scope="module")
def codes(truth: np.ndarray) -> np.ndarray:
    """A map of it with errors as maps have them: shifted, coarse, one zone taken for another."""
    rng = np.random.default_rng(0)
    found = np.roll(truth, (1, 0), (0, 1))
    wrong = rng.random(truth.shape) < 0.08
    found[wrong] = rng.permutation(truth[wrong])
    found[(found == 5) & (rng.random(truth.shape) < 0.3)] = 6
    return found


def write(path: Path, codes: np.ndarray) -> Path:
    profile: dict[str, Any] = {"driver": "GTiff", "dtype": "uint8", "count": 1, "nodata": 0}
    height, width = codes.shape
    with rasterio.open(
        path, "w", height=height, width=width, crs="EPSG:3035",
        transform=from_origin(4_400_000, 3_000_000, 100, 100), **profile,
    ) as file:  # fmt: skip
        file.write(codes, 1)
    return path


def fill_in(folder: Path, truth: np.ndarray) -> None:
    """What an interpreter does: look at each cell's place."""
    path = folder / "sample.geojson"
    text = json.loads(path.read_text())
    for feature in text["features"]:
        ring = np.array(feature["geometry"]["coordinates"][0])
        (x, y) = rasterio.warp.transform(
            "EPSG:4326", "EPSG:3035", [ring[:4, 0].mean()], [ring[:4, 1].mean()]
        )
        row, col = int((3_000_000 - y[0]) // 100), int((x[0] - 4_400_000) // 100)
        code = int(truth[row, col])
        feature["properties"]["lcz"] = "ABCDEFG"[code - 11] if code > 10 else str(code)
    path.write_text(json.dumps(text))


def test_sizes_follow_the_wanted_error_and_rare_classes_get_their_share(
    codes: np.ndarray,
) -> None:
    found = allocate(codes, 0.01, users=0.8, least=30)
    assert found.sizes.sum() == pytest.approx(1600, abs=100)  # 0.8 x 0.2 / 0.01^2
    assert (found.sizes >= np.minimum(30, found.cells)).all()
    assert found.sizes.max() > 100
    rows, cols = draw(codes, found, seed=1)
    drawn = codes[rows, cols]
    for code, size in zip(found.classes, found.sizes, strict=True):
        assert (drawn == code).sum() == size
    assert len({(r, c) for r, c in zip(rows, cols, strict=True)}) == len(rows)
    assert np.abs(np.diff(drawn.astype(int))).mean() > 2  # not class by class


def test_intervals_cover_the_true_areas(truth: np.ndarray, codes: np.ndarray) -> None:
    found = allocate(codes, 0.014, users=0.8, least=50)
    areas = np.zeros(17)
    areas[found.classes - 1] = found.cells
    true = np.bincount(truth.ravel(), minlength=18)[1:]
    accuracy = (truth == codes).mean()
    covered, right, estimates = [], [], []
    for seed in range(500):
        rows, cols = draw(codes, found, seed)
        counts = np.zeros((17, 17), np.int64)
        np.add.at(counts, (codes[rows, cols] - 1, truth[rows, cols] - 1), 1)
        e = stratified(counts, areas)
        covered.append(np.abs(e.areas - true) <= e.areas_ci)
        right.append(abs(e.oa - accuracy) <= e.oa_ci)
        estimates.append(e.areas)
    share = np.mean(covered, axis=0)
    assert share.mean() >= 0.92, share
    assert np.mean(right) >= 0.92
    assert (share[true > 0] > 0.85).all(), share
    # and the map's own areas are off by far more than the estimates' mean
    bias = np.abs(np.mean(estimates, axis=0) - true).sum()
    assert bias < 0.1 * np.abs(areas - true).sum()


def test_from_the_map_to_the_estimate(truth: np.ndarray, codes: np.ndarray, tmp_path: Path) -> None:
    path = write(tmp_path / "map.tif", codes)
    folder = tmp_path / "sample"
    words = ["sample", str(path), "--for", "accuracy", "--out", str(folder)]
    more = ["--standard-error", "0.02", "--least", "30"]
    assert CliRunner().invoke(app, [*words, *more]).exit_code == 0
    assert "mapped" not in (folder / "sample.geojson").read_text()
    with pytest.raises(LabelError, match="no class yet"):
        judge(path, folder)
    fill_in(folder, truth)
    found = judge(path, folder, out=tmp_path / "report")
    assert abs(found.estimates.oa - (truth == codes).mean()) < 0.05
    assert found.estimates.areas.sum() == pytest.approx(144.0)
    told = json.loads((tmp_path / "report" / "estimates.json").read_text())
    assert told["oa"] == pytest.approx(found.estimates.oa, abs=1e-4)
    with pytest.raises(MetricError, match="judged as a whole"):
        engine.evaluate(path, folder, within=path)
    shown = CliRunner().invoke(app, ["evaluate", str(path), str(folder)])
    assert shown.exit_code == 0
    assert f"overall accuracy {found.estimates.oa:.3f}" in shown.output
    with pytest.raises(LabelError, match="holds a sample already"):
        sample(path, folder)
    changed = codes.copy()
    changed[0, 0] = 17 if changed[0, 0] != 17 else 11
    with pytest.raises(MetricError, match="another map"):
        judge(write(tmp_path / "map.tif", changed), folder)


def test_a_class_that_the_map_has_missed_is_estimated_too() -> None:
    codes = np.full((60, 60), 11, np.uint8)
    codes[:, 30:] = 14
    truth = codes.copy()
    truth[:, 25:30] = 12  # the map knows nothing of it
    found = allocate(codes, 0.02)
    rows, cols = draw(codes, found)
    counts = np.zeros((17, 17), np.int64)
    np.add.at(counts, (codes[rows, cols] - 1, truth[rows, cols] - 1), 1)
    areas = np.zeros(17)
    areas[found.classes - 1] = found.cells
    estimates = stratified(counts, areas)
    assert abs(estimates.areas[11] - 300) <= 1.5 * estimates.areas_ci[11]
    assert np.isnan(estimates.users[11])
    assert estimates.producers[11] == 0


def test_what_cannot_be_sampled_is_said(codes: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(LabelError, match="no cell"):
        allocate(np.zeros((4, 4), np.uint8))
    for wrong in ({"standard_error": 0.0}, {"users": 1.5}, {"least": 1}):
        with pytest.raises(LabelError):
            allocate(codes, **wrong)
    with pytest.raises(MetricError, match="no such map"):
        sample(tmp_path / "none.tif", tmp_path / "s")
    with pytest.raises(LabelError, match="cannot be read"):
        judge(write(tmp_path / "map.tif", codes), tmp_path)
    sample(tmp_path / "map.tif", tmp_path / "s", least=30, standard_error=0.03)
    text = (tmp_path / "s" / "sample.geojson").read_text()
    (tmp_path / "s" / "sample.geojson").write_text(text.replace('"lcz": null', '"lcz": "grass"'))
    with pytest.raises(LabelError, match=r"holds what is not a class(.|\n)*'grass'"):
        judge(tmp_path / "map.tif", tmp_path / "s")


@pytest.mark.parametrize("nodata", [255, None])
def test_maps_of_green_space_are_refused(tmp_path: Path, nodata: int | None) -> None:
    values = (np.random.default_rng(0).random((300, 300)) < 0.5).astype(np.uint8)
    path = tmp_path / "town.tif"
    at = from_origin(400_000, 5_000_000, 1, 1)
    form: dict[str, Any] = {"driver": "GTiff", "dtype": "uint8", "count": 1, "nodata": nodata}
    with rasterio.open(
        path, "w", height=300, width=300, crs="EPSG:32633", transform=at, **form
    ) as file:
        file.write(values, 1)
    with pytest.raises(MetricError, match=r"local climate zones only(.|\n)*natmap evaluate"):
        sample(path, tmp_path / "s")
    (tmp_path / "report.json").write_text('{"name": "town", "recipe": {"product": "ugs"}}')
    percent = tmp_path / "town-probability.tif"
    shutil.copy(path, percent)
    for product in (tmp_path, path, percent):
        with pytest.raises(MetricError, match="local climate zones only"):
            sample(product, tmp_path / "s")
    assert not (tmp_path / "s").exists()
    # two zones are two zones, also where 0 is not declared
    with rasterio.open(path, "r+") as file:
        file.write(2 * values + 1, 1)
    (tmp_path / "report.json").unlink()
    assert sample(path, tmp_path / "s", standard_error=0.1).classes.tolist() == [1, 3]
