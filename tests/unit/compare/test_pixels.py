"""A map of green space against rasters that know: what is counted, and what is refused."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from typer.testing import CliRunner

from engine.cli.app import app
from engine.compare import pixels, squares
from engine.compare.pixels import evaluate_green
from engine.errors import MetricError
from engine.labels.land_cover import LAND_COVER
from engine.metrics import binary

SIDE = 200
TRUTH = (np.random.default_rng(0).random((SIDE, SIDE)) < 0.4).astype(np.uint8)
MAP = np.where(np.random.default_rng(1).random((SIDE, SIDE)) < 0.1, 1 - TRUTH, TRUTH)


def write(path: Path, values: np.ndarray, nodata: float | None = None, metres: float = 1.0) -> Path:
    height, width = values.shape
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        height=height,
        width=width,
        count=1,
        dtype=values.dtype,
        crs="EPSG:32633",
        transform=Affine(metres, 0, 400_000, 0, -metres, 5_000_000),
        nodata=nodata,
    ) as file:
        file.write(values, 1)
    return path


@pytest.fixture
def green(tmp_path: Path) -> Path:
    return write(tmp_path / "map.tif", MAP.astype(np.uint8), 255)


def counts_of(truth: np.ndarray, known: np.ndarray) -> np.ndarray:
    return np.bincount(2 * truth[known] + MAP[known], minlength=4).reshape(2, 2)


@pytest.mark.parametrize("declared", [np.nan, -1.0, None])
def test_pixels_without_a_value_are_unknown(
    tmp_path: Path, green: Path, declared: float | None
) -> None:
    truth = TRUTH.astype(np.float32)
    truth[:, 120:] = np.nan if declared is None else declared
    found = evaluate_green(green, write(tmp_path / "r.tif", truth, declared))
    known = np.zeros(TRUTH.shape, bool)
    known[:, :120] = True
    np.testing.assert_array_equal(found.counts, counts_of(TRUTH, known))
    assert found.unknown == SIDE * 80


def test_masked_pixels_and_those_beyond_the_reference_are_unknown(
    tmp_path: Path, green: Path
) -> None:
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
        path = write(tmp_path / "r.tif", TRUTH[:, :150])
        with rasterio.open(path, "r+") as file:
            file.write_mask(np.arange(SIDE)[:, None] >= np.full(150, 30))
    known = np.zeros(TRUTH.shape, bool)
    known[30:, :150] = True
    found = evaluate_green(green, path, unknown=())  # a class of zeros is no edge
    np.testing.assert_array_equal(found.counts, counts_of(TRUTH, known))
    # a raster of places says nothing beyond its edge, whatever its nodata
    within = write(tmp_path / "w.tif", np.ones((90, SIDE), np.uint8), 255)
    known[90:] = False
    found = evaluate_green(green, path, within=within)
    np.testing.assert_array_equal(found.counts, counts_of(TRUTH, known))


def test_codes_that_contradict_each_other_are_refused(tmp_path: Path, green: Path) -> None:
    reference = write(tmp_path / "ugset.tif", (255 * TRUTH).astype(np.uint8))
    with pytest.raises(MetricError, match=r"both green space and unknown(.|\n)*--unknown"):
        evaluate_green(green, reference, green=(255,))
    with pytest.raises(MetricError, match=r"no green space(.|\n)*codes 0\n(.|\n)*as 1\n"):
        evaluate_green(green, reference)
    found = evaluate_green(green, reference, green=(255,), unknown=())
    np.testing.assert_array_equal(found.counts, counts_of(TRUTH, TRUTH < 2))
    declared = write(tmp_path / "nodata.tif", (255 * TRUTH).astype(np.uint8), 255)
    with pytest.raises(MetricError, match="declares as nodata"):
        evaluate_green(green, declared, green=(255,), unknown=())


@pytest.mark.parametrize("strange", [0.6, 4.0, 11.0])
def test_values_that_are_no_labels_are_refused(tmp_path: Path, green: Path, strange: float) -> None:
    """1 is water in one land cover product: without a word it is no green space there."""
    values = TRUTH.astype(np.float32)
    values[:9] = strange
    reference = write(tmp_path / "cover.tif", values)
    words = "fractions" if strange % 1 else "--land-cover"
    with pytest.raises(MetricError, match=words) as error:
        evaluate_green(green, reference)
    assert f"{strange:g}" in str(error.value)
    if strange % 1:
        with pytest.raises(MetricError, match="fractions"):
            evaluate_green(green, reference, green=(1,))
    else:  # said so, all others are not green
        assert evaluate_green(green, reference, green=(1,)).counts.sum() > 0


def test_a_map_of_other_values_is_refused(tmp_path: Path, green: Path) -> None:
    percent = write(tmp_path / "probability.tif", np.where(MAP == 1, 90, 10).astype(np.uint8), 255)
    with pytest.raises(MetricError, match=r"not classes of green space(.|\n)*10, 90"):
        evaluate_green(percent, green)


def test_blocks_change_nothing(
    tmp_path: Path, green: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = write(tmp_path / "r.tif", TRUTH)
    monkeypatch.setattr(squares, "_GROUND", 30.0)
    whole = evaluate_green(green, reference)
    assert whole.groups == 49
    monkeypatch.setattr(squares, "_BLOCK", 64)  # across and along the squares
    parts = evaluate_green(green, reference)
    np.testing.assert_array_equal(whole.counts, parts.counts)
    assert parts.groups == 49
    assert whole.figures == parts.figures == binary(counts_of(TRUTH, TRUTH < 2))


def test_memory_does_not_grow_with_the_width(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(squares, "_BLOCK", 256)
    monkeypatch.setattr(pixels, "_REPEATS", 2)
    peaks = []
    for width in (1000, 8000):
        values = np.ones((1000, width), np.uint8)
        path = write(tmp_path / f"{width}.tif", values, 255)
        tracemalloc.start()
        evaluate_green(path, path)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0]


def test_land_cover_is_recoded(tmp_path: Path, green: Path) -> None:
    cover = np.where(TRUTH == 1, np.resize([10, 20, 30, 95], TRUTH.shape), 50).astype(np.uint8)
    cover[:40] = 0
    known = cover > 0
    reference = write(tmp_path / "cover.tif", cover)
    found = evaluate_green(green, reference, land_cover="worldcover")
    np.testing.assert_array_equal(found.counts, counts_of(TRUTH, known))
    assert found.green == (10, 20, 30, 95)
    by_hand = evaluate_green(green, reference, green=(10, 20, 30, 95), unknown=(0,))
    np.testing.assert_array_equal(found.counts, by_hand.counts)
    with pytest.raises(MetricError, match=r"may have(.|\n)*20, 30, 50, 95"):
        evaluate_green(green, reference, land_cover="esri")
    with pytest.raises(MetricError, match=r"no such land cover(.|\n)*worldcover"):
        evaluate_green(green, reference, land_cover="world-cover")
    with pytest.raises(MetricError, match="named twice"):
        evaluate_green(green, reference, land_cover="esri", green=(2,))
    for name, product in LAND_COVER.items():
        codes = (*product.green, *product.other, *product.unknown)
        assert len(codes) == len(set(codes)), name


def test_globeland30_is_recoded_as_in_ugs_1m(tmp_path: Path, green: Path) -> None:
    """Forest 20, grassland 30 and shrubland 40 are green; the other seven classes are not."""
    there = np.where(
        TRUTH == 1,
        np.resize([20, 30, 40], TRUTH.shape),
        np.resize([10, 50, 60, 70, 80, 90, 100], TRUTH.shape),
    ).astype(np.uint8)
    there[:30], there[30:40] = 0, 255
    reference = write(tmp_path / "globeland30.tif", there)
    found = evaluate_green(green, reference, land_cover="globeland30")
    np.testing.assert_array_equal(found.counts, counts_of(TRUTH, (there > 0) & (there < 255)))


def test_areas_have_intervals(tmp_path: Path, green: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(squares, "_GROUND", 20.0)
    found = evaluate_green(green, write(tmp_path / "r.tif", TRUTH), out=tmp_path / "out")
    for name, values in (("map", MAP), ("reference", TRUTH)):
        # squares of equal size: the spread of a mean of 100 shares, by the textbook
        shares = values.reshape(10, 20, 10, 20).mean((1, 3))
        half = 1.96 * shares.std() / 10 * values.size / 1e6
        mean, low, high = found.area_intervals[name]
        assert found.areas[name] == pytest.approx(values.sum() / 1e6)
        assert mean == pytest.approx(found.areas[name], rel=0.01)
        assert high - low == pytest.approx(2 * half, rel=0.15)
    told = json.loads((tmp_path / "out" / "accuracy.json").read_text())
    assert list(told["green_km2_intervals_95"]) == ["map", "reference"]
    assert list(told["intervals_95"]) == list(found.figures)


def test_the_command_takes_codes_and_names(tmp_path: Path, green: Path) -> None:
    def natmap(*words: Any) -> dict[str, float]:
        said = CliRunner().invoke(app, ["evaluate", *map(str, words), "--json"])
        if said.exception is not None:
            raise said.exception
        found: dict[str, float] = json.loads(said.stdout)
        return found

    masks = write(tmp_path / "ugset.tif", (255 * TRUTH).astype(np.uint8))
    cover = write(tmp_path / "cover.tif", np.where(TRUTH == 1, 2, 7).astype(np.uint8))
    wanted = binary(counts_of(TRUTH, TRUTH < 2))
    assert natmap(green, masks, "--green", "255", "--unknown", "") == wanted
    assert natmap(green, cover, "--land-cover", "esri") == wanted
    # a product's raster is known without a word about green
    (tmp_path / "report.json").write_text('{"name": "map", "recipe": {"product": "ugs"}}')
    labels = write(tmp_path / "labels.tif", TRUTH)
    assert natmap(green, labels) == natmap(tmp_path, labels) == wanted
    with pytest.raises(MetricError, match="both green space and unknown"):
        natmap(green, masks, "--green", "255")
