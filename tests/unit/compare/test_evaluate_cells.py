"""A map of local climate zones against rasters and areas that know: numpy says the same."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine
from odc.geo.geobox import GeoBox
from pyproj import Transformer
from rasterio.features import rasterize
from typer.testing import CliRunner

from engine.cli.app import app
from engine.compare import cells as module
from engine.compare.cells import evaluate
from engine.errors import MetricError
from engine.labels.sampling import cells_of_areas
from engine.labels.training_areas import read_training_areas
from engine.metrics import confusion

SHAPE = (90, 130)
WEST, NORTH = 400_000, 5_000_000
draw = np.random.default_rng(5)
TRUTH = draw.integers(0, 18, SHAPE).astype(np.uint8)  # 0: nobody knows
MAP = np.where(draw.random(SHAPE) < 0.3, draw.integers(1, 18, SHAPE), TRUTH).astype(np.uint8)
MAP[:30, :40] = 0
DAYS = draw.integers(0, 70, SHAPE).astype(np.uint16)
DISSENT = draw.choice(np.array([0, 1, 9, 10, 24, 25, 100, 255], np.uint8), SHAPE)


def write(
    path: Path,
    values: np.ndarray,
    nodata: float | None = None,
    *,
    metres: float = 100.0,
    **more: Any,
) -> Path:
    height, width = values.shape
    at = {"crs": "EPSG:32633", "transform": Affine(metres, 0, WEST, 0, -metres, NORTH)} | more
    form = {"driver": "GTiff", "height": height, "width": width, "count": 1, "dtype": values.dtype}
    with rasterio.open(path, "w", **form, **at, nodata=nodata, tiled=True) as file:
        file.write(values, 1)
    return path


@pytest.fixture
def product(tmp_path: Path) -> Path:
    """A map with the layers that lie beside it."""
    write(tmp_path / "town-observations.tif", DAYS)
    write(tmp_path / "town-dissent.tif", DISSENT, 255)
    return write(tmp_path / "town.tif", MAP, 0)


def shares(values: np.ndarray, where: np.ndarray) -> dict[int, tuple[int, float]]:
    found = {}
    for value in np.unique(values[where]).tolist():
        here = where & (values == value)
        found[value] = int(here.sum()), float((MAP == TRUTH)[here].mean())
    return found


@pytest.mark.parametrize("factor", [1, 4])
def test_every_cell_is_counted_as_by_numpy(tmp_path: Path, product: Path, factor: int) -> None:
    fine = np.kron(TRUTH, np.ones((factor, factor), np.uint8))  # finer: the nearest pixel counts
    reference = write(tmp_path / "truth.tif", fine, metres=100 / factor)
    allowed = np.zeros(SHAPE, np.float32)
    allowed[:, 50:] = 0.2
    places = write(tmp_path / "places.tif", allowed)
    for within, there in ((None, np.ones(SHAPE, bool)), (places, allowed > 0)):
        found = evaluate(product, reference, within=within)
        both = there & (TRUTH > 0) & (MAP > 0)
        np.testing.assert_array_equal(found.counts, confusion(TRUTH[there], MAP[there]))
        assert found.accuracy.cells == both.sum()
        assert found.missed == (there & (TRUTH > 0) & (MAP == 0)).sum()
        assert found.by_observations == shares(DAYS, both)
        bins = np.select([DISSENT >= 25, DISSENT >= 10, DISSENT >= 1], [25, 10, 1], 0)
        assert found.by_dissent == shares(bins, both & (DISSENT != 255))
        squares = np.add.reduceat(np.add.reduceat(both, range(0, 90, 20)), range(0, 130, 20), 1)
        assert found.groups == (squares > 0).sum()
        mean, low, high = found.intervals["oa"]
        assert low < mean < high
        assert mean == pytest.approx(found.accuracy.oa, abs=0.01)


def test_areas_are_read_where_they_lie(
    tmp_path: Path, product: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Polygons of two classes, one of them beyond the map, the blocks smaller than the polygons."""
    monkeypatch.setattr(module, "_READ", 16)
    move = Transformer.from_crs("EPSG:32633", "EPSG:4326", always_xy=True)
    features = []
    for number, (x, y, lcz) in enumerate([(2800, 1000, 2), (5000, 4000, 14), (9e4, 9e4, 2)]):
        square = shapely.box(WEST + x, NORTH - y - 2500, WEST + x + 2500, NORTH - y)
        square = shapely.transform(square, lambda xy: np.column_stack(move.transform(*xy.T)))
        geometry = json.loads(shapely.to_geojson(square))
        told = {"lcz": lcz, "id": str(number)}
        features.append({"type": "Feature", "geometry": geometry, "properties": told})
    path = tmp_path / "areas.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    labels = read_training_areas(path).areas
    samples = cells_of_areas(labels, GeoBox(SHAPE, *_place()))
    at = samples["row"], samples["col"]
    allowed = rasterize([(shapely.box(WEST, NORTH - 6000, WEST + 7000, NORTH), 1)], SHAPE,
                        transform=_place()[0])  # fmt: skip
    write(tmp_path / "places.tif", allowed.astype(np.uint8))
    for within, keep in ((None, MAP >= 0), (tmp_path / "places.tif", allowed > 0)):
        found = evaluate(product, path, within=within)
        here = keep[at]
        codes, known = samples["lcz"][here], MAP[at][here]
        np.testing.assert_array_equal(found.counts, confusion(codes, known))
        assert 0 < found.missed == (known == 0).sum()
        assert found.groups == 2
        right = np.where(known > 0, known == codes, False)
        for days, (number, share) in found.by_observations.items():
            here_ = (DAYS[at][here] == days) & (known > 0)
            assert number == here_.sum()
            assert share == pytest.approx(right[here_].mean())
        assert sum(n for n, _ in found.by_observations.values()) == found.accuracy.cells
    with pytest.raises(MetricError, match="only codes of a raster"):
        evaluate(product, path, unknown=[3])


def _place() -> tuple[Affine, str]:
    return Affine(100, 0, WEST, 0, -100, NORTH), "EPSG:32633"


def test_what_is_no_class_is_refused_or_left_out(tmp_path: Path, product: Path) -> None:
    strange = TRUTH.copy()
    strange[80, 80] = 99
    path = write(tmp_path / "strange.tif", strange)
    with pytest.raises(MetricError, match=r"the reference holds(.|\n)*got: +99(.|\n)*--unknown"):
        evaluate(product, path)
    expected = confusion(np.where(strange == 99, 0, TRUTH), MAP)
    np.testing.assert_array_equal(evaluate(product, path, unknown=[99]).counts, expected)
    ran = CliRunner().invoke(
        app, ["evaluate", str(product), str(path), "--unknown", "99", "--json"]
    )
    assert json.loads(ran.stdout)["cells"] == expected.sum()
    declared = write(tmp_path / "declared.tif", strange, 99)
    np.testing.assert_array_equal(evaluate(product, declared).counts, expected)
    # a half is not rounded to a class
    halves = write(tmp_path / "halves.tif", TRUTH.astype(np.float32) + 0.5)
    with pytest.raises(MetricError, match=r"the reference holds(.|\n)*0.5"):
        evaluate(product, halves)
    other = write(tmp_path / "other.tif", np.where(MAP == 3, 40, MAP).astype(np.uint8))
    with pytest.raises(MetricError, match=r"the map holds(.|\n)*got: +40"):
        evaluate(other, write(tmp_path / "truth.tif", TRUTH))
    nowhere = write(tmp_path / "nowhere.tif", TRUTH[:20, :30])  # there the map has no class
    with pytest.raises(MetricError, match=r"\d+ labelled pixels, none mapped(.|\n)*--layer"):
        evaluate(product, nowhere)
    lost = write(tmp_path / "lost.tif", TRUTH, crs=None)
    with pytest.raises(MetricError, match="which CRS"):
        evaluate(product, lost)


def test_a_map_in_degrees_is_counted_in_cells(tmp_path: Path) -> None:
    at = {"crs": "EPSG:4326", "transform": Affine(1e-3, 0, 12, 0, -1e-3, 50)}
    product = write(tmp_path / "map.tif", MAP, 0, **at)
    found = evaluate(product, write(tmp_path / "truth.tif", TRUTH, **at))
    np.testing.assert_array_equal(found.counts, confusion(TRUTH, MAP))
    assert found.by_observations == {}


def test_memory_does_not_grow_with_the_map(tmp_path: Path) -> None:
    """Of a nation's map a part is held at once, and no square is compared with every other."""
    peaks = []
    for times in (1, 3):
        codes = np.tile(np.kron(TRUTH, np.ones((10, 5), np.uint8)), (times, 1))
        paths = [write(tmp_path / f"{name}{times}.tif", codes, 0) for name in ("map", "truth")]
        tracemalloc.start()
        assert evaluate(*paths).accuracy.oa == 1
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0]


def test_a_file_of_another_place_is_no_layer_of_the_map(tmp_path: Path, product: Path) -> None:
    """It has the name that a product's layer would have, be it shifted or of another size."""
    truth = write(tmp_path / "truth.tif", TRUTH)
    assert evaluate(product, truth).by_observations
    for shift, part in ((100, DAYS), (0, DAYS[:40])):
        at = Affine(100, 0, WEST + shift, 0, -100, NORTH)
        write(tmp_path / "town-observations.tif", part, transform=at)
        found = evaluate(product, truth)
        assert found.by_observations == {}
        assert found.by_dissent
