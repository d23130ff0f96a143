"""The files of `natmap landscape`, of a raster, a product and a store."""

from __future__ import annotations

import json
from pathlib import Path

import geopandas
import numpy as np
import pandas
import pytest
import rasterio
import shapely
from affine import Affine
from typer.testing import CliRunner

from engine.cli.app import app
from engine.errors import AreaError, LabelError
from engine.sites.landscape import landscape
from engine.sites.source import RasterMap

DEGREES = Affine(0.1, 0, 10, 0, -0.1, 50)


@pytest.fixture
def cover(tmp_path: Path) -> Path:
    """20 x 40 pixels of a tenth of a degree: two classes in stripes, and a column of nothing."""
    codes = np.zeros((20, 40), np.uint8)
    codes[:, 1:] = 10
    codes[::4, 1:] = 20
    path = tmp_path / "cover.tif"
    form = {"height": 20, "width": 40, "count": 1, "dtype": "uint8", "nodata": 0}
    with rasterio.open(
        path, "w", driver="GTiff", crs="EPSG:4326", transform=DEGREES, **form
    ) as file:
        file.write(codes, 1)
    return path


@pytest.fixture
def provinces(tmp_path: Path) -> Path:
    """Two provinces of two polygons, one beyond the map."""
    shapes = [shapely.box(10, 48, 12, 50), shapely.box(12, 48, 14, 50), shapely.box(14, 48, 15, 50)]
    path = tmp_path / "provinces.gpkg"
    frame = geopandas.GeoDataFrame({"name": ["A", "B", "B"]}, geometry=shapes, crs="EPSG:4326")
    frame.to_crs("EPSG:3857").to_file(path)
    return path


def test_the_files_say_what_was_counted(cover: Path, provinces: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ["landscape", str(cover), "--regions", str(provinces), "--field", "name"]
    found = CliRunner().invoke(app, [*words, "--unit", "0.5", "--out", str(out)])
    assert found.exit_code == 0, found.output
    assert sorted(p.name for p in out.iterdir()) == [
        "classes.csv",
        "landscape.json",
        "regions.parquet",
        "units.parquet",
    ]
    regions = geopandas.read_parquet(out / "regions.parquet")
    assert regions["region"].tolist() == ["A", "B"]
    assert regions["pixels"].tolist() == [20 * 19, 20 * 20]
    assert regions["area_m2"].sum() == pytest.approx(6.347e10, rel=0.001)
    classes = pandas.read_csv(out / "classes.csv")
    assert classes["share"].groupby(classes["region"]).sum().tolist() == pytest.approx([1, 1])
    stripes = classes[(classes["region"] == "B") & (classes["code"] == 20)]
    assert stripes["edges"].item() == 5 * (20 + 20 + 2)
    units = geopandas.read_parquet(out / "units.parquet")
    assert units["pixels"].sum() == regions["pixels"].sum()
    [unit] = units[(units["row"] == 1) & (units["col"] == 7) & (units["code"] == 20)].itertuples()
    assert unit.geometry.bounds == pytest.approx((13.5, 49.0, 14.0, 49.5))
    assert (unit.pixels, unit.edges) == (5, 12)
    report = json.loads((out / "landscape.json").read_text())
    assert report["unit_pixels"] == 5
    assert [entry["code"] for entry in report["classes"]] == [10, 20]


def test_a_product_and_its_store_have_the_same_indices(reference: Path) -> None:
    published = landscape(reference / "product", unit=800)
    stored = landscape(reference / "store", unit=800)
    assert published.titles([1, 17]) == stored.titles([1, 17]) != ["1", "17"]
    for name in ("code", "pixels", "edges"):
        assert np.array_equal(getattr(published.by_class, name), getattr(stored.by_class, name))
    with pytest.raises(LabelError, match="codes that say nothing are told of rasters"):
        landscape(reference / "store", unit=800, unknown=[17])


@pytest.mark.parametrize(
    ("settings", "error", "match"),
    [
        ({"unit": 0.25}, LabelError, "not a multiple of the pixel size"),
        ({"unit": float("nan")}, LabelError, "not a multiple"),
        ({"unit": 5.0}, AreaError, "units are larger than regions"),
        ({"field": "title"}, AreaError, "no field title"),
        ({"unknown": [10, 20]}, LabelError, "no pixel of the map has a class"),
        ({"grid": float("inf")}, AreaError, "makes no sense"),
    ],
)
def test_what_makes_no_sense_is_refused(
    settings: dict[str, object], error: type[Exception], match: str, cover: Path, provinces: Path
) -> None:
    with pytest.raises(error, match=match):
        landscape(cover, regions=provinces, **settings)  # type: ignore[arg-type]


def test_a_field_without_regions_is_refused(cover: Path) -> None:
    with pytest.raises(AreaError, match="field goes with regions"):
        landscape(cover, field="name")


def test_a_code_that_the_legend_lacks_is_refused(cover: Path) -> None:
    map_ = RasterMap(cover, {10: "crops"})
    with pytest.raises(LabelError, match="codes that its legend does not have") as told:
        map_.read(slice(0, 4), slice(0, 4))
    assert "20" in str(told.value)
