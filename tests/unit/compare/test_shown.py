"""Rasters that hide cells, or say more than codes: counted as they say, or refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine
from odc.geo.geobox import GeoBox
from rasterio.enums import ColorInterp

from engine.compare.evaluate import evaluate
from engine.compare.sample import sample
from engine.errors import LabelError, MetricError
from engine.labels.sampling import cells_of_raster

SIDE, WEST, NORTH = 20, 500_000, 5_200_000
AT = Affine(100, 0, WEST, 0, -100, NORTH)
TRUTH = np.kron([[2, 6], [11, 17]], np.ones((10, 10), int)).astype(np.uint8)
SHOWN = np.arange(SIDE)[None, :].repeat(SIDE, 0) < 12
WRONG = np.where(SHOWN, TRUTH, 9).astype(np.uint8)


def write(path: Path, *bands: np.ndarray, **more: Any) -> Path:
    form = {"driver": "GTiff", "height": SIDE, "width": SIDE, "crs": "EPSG:32633"}
    uses = more.pop("colorinterp", None)
    form |= {"transform": AT, "count": len(bands), "dtype": bands[0].dtype, **more}
    with rasterio.open(path, "w", **form) as file:
        file.write(np.stack(bands))
    if uses:  # a file in the making keeps no alpha of its second band
        with rasterio.open(path, "r+") as file:
            file.colorinterp = uses
    return path


def hidden(folder: Path, how: str, values: np.ndarray) -> Path:
    """A raster whose values hold where `SHOWN` is, and are hidden elsewhere."""
    path = folder / f"{how}.tif"
    shown = np.where(SHOWN, 255, 0).astype(np.uint8)
    if how == "alpha":
        return write(path, values, shown, colorinterp=(ColorInterp.gray, ColorInterp.alpha))
    if how == "nan":
        return write(path, np.where(SHOWN, values, np.nan).astype(np.float32))
    write(path, values)
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=how == "mask"), rasterio.open(path, "r+") as file:
        file.write_mask(shown)
    return path


@pytest.mark.parametrize("how", ["mask", "beside", "alpha", "nan"])
def test_hidden_cells_of_a_map_have_no_class(tmp_path: Path, how: str) -> None:
    found = hidden(tmp_path, how, WRONG)
    truth = write(tmp_path / "truth.tif", TRUTH)
    result = evaluate(found, truth)
    assert np.array_equal(result.counts, evaluate(truth, found).counts)
    assert (result.counts.sum(), result.figures["oa"]) == (SHOWN.sum(), 1.0)
    assert result.missed == (~SHOWN).sum()
    squares = [(x, y) for x in (0, 1) for y in (0, 1)]
    shapes = [shapely.box(WEST + 1000 * x, NORTH - 1000 * y - 1000, WEST + 1000 * x + 1000,
                          NORTH - 1000 * y) for x, y in squares]  # fmt: skip
    areas = geopandas.GeoDataFrame(
        {"lcz": [TRUTH[10 * y, 10 * x] for x, y in squares]}, geometry=shapes, crs=32633
    )
    areas.to_file(tmp_path / "areas.gpkg")
    result = evaluate(found, tmp_path / "areas.gpkg")
    assert (result.figures["oa"], result.missed > 0) == (1.0, True)
    if how != "nan":
        drawn = sample(found, tmp_path / "look", standard_error=0.2, least=2)
        assert drawn.cells.sum() == SHOWN.sum()


@pytest.mark.parametrize("how", ["mask", "alpha", "nan", "nodata"])
def test_hidden_pixels_of_a_map_of_green_space_are_not_judged(tmp_path: Path, how: str) -> None:
    green = (TRUTH > 6).astype(np.uint8)
    if how == "nodata":
        found = write(tmp_path / "n.tif", np.where(SHOWN, green, 2).astype(np.uint8), nodata=2)
    else:
        found = hidden(tmp_path, how, np.where(SHOWN, green, 1 - green).astype(np.uint8))
    truth = write(tmp_path / "truth.tif", green)
    counts = evaluate(found, truth, green=[1]).counts
    assert np.array_equal(counts, np.diag(np.bincount(green[SHOWN])))


def test_a_class_is_no_nodata(tmp_path: Path) -> None:
    green = (TRUTH > 6).astype(np.uint8)
    truth, none = write(tmp_path / "t.tif", green), write(tmp_path / "n.tif", green, nodata=0)
    with pytest.raises(MetricError, match="declares a class of green space as nodata"):
        evaluate(none, truth, green=[1])
    with pytest.raises(MetricError, match="knows nothing but green space"):
        evaluate(truth, none, green=[1])


@pytest.mark.parametrize("what", ["bands", "scale", "offset"])
def test_codes_stand_as_they_are_in_one_band(tmp_path: Path, what: str) -> None:
    """Else the first of several bands would be judged, or numbers that mean others."""
    good = write(tmp_path / "good.tif", TRUTH)
    odd = write(tmp_path / "odd.tif", *([TRUTH] * (3 if what == "bands" else 1)))
    with rasterio.open(odd, "r+") as file:
        if what == "bands":
            file.descriptions = "lcz", "lczFilter", "classProbability"
        else:
            file.scales, file.offsets = (0.5 if what == "scale" else 1,), (what == "offset",)
    words = "lczFilter" if what == "bands" else f"{what}"
    for map_, reference, within in ((odd, good, None), (good, odd, None), (good, good, odd)):
        with pytest.raises(MetricError, match=words):
            evaluate(map_, reference, within=within)
    with pytest.raises(MetricError, match=words):
        sample(odd, tmp_path / "look")
    with pytest.raises(LabelError, match=words):
        cells_of_raster(odd, GeoBox((SIDE, SIDE), AT, "EPSG:32633"))
