"""Networks of lines: centrelines by thinning, completeness and correctness by length."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import rasterio
import shapely
import shapely.affinity
from affine import Affine
from rasterio.features import rasterize
from scipy import ndimage
from typer.testing import CliRunner

import engine
from engine.cli.app import app
from engine.compare import lines as lines_module
from engine.compare.lines import LineEvaluation, evaluate_lines
from engine.compare.thinning import KULPA, halo_of, links_of, passes_for, thin
from engine.errors import MetricError
from engine.grid.area import reproject
from engine.vectors.lines import read_lines

CRS = "EPSG:32633"
WEST, NORTH = 400_000.0, 5_000_000.0


def guo_hall(mask: np.ndarray) -> np.ndarray:
    """Straight from the paper's conditions, pixel by pixel."""
    image = np.pad(mask, 1).astype(int)
    while True:
        changed = False
        for half in (0, 1):
            gone = []
            for i, j in np.argwhere(image):
                p2, p3, p4 = image[i - 1, j], image[i - 1, j + 1], image[i, j + 1]
                p5, p6, p7 = image[i + 1, j + 1], image[i + 1, j], image[i + 1, j - 1]
                p8, p9 = image[i, j - 1], image[i - 1, j - 1]
                c = sum(
                    not a and (b or d)
                    for a, b, d in ((p2, p3, p4), (p4, p5, p6), (p6, p7, p8), (p8, p9, p2))
                )
                n1 = sum(bool(a or b) for a, b in ((p9, p2), (p3, p4), (p5, p6), (p7, p8)))
                n2 = sum(bool(a or b) for a, b in ((p2, p3), (p4, p5), (p6, p7), (p8, p9)))
                last = (p2 or p3 or not p5) and p4 if half == 0 else (p6 or p7 or not p9) and p8
                if c == 1 and 2 <= min(n1, n2) <= 3 and not last:
                    gone.append((i, j))
            for at in gone:
                image[at] = 0
            changed |= bool(gone)
        if not changed:
            return image[1:-1, 1:-1].astype(bool)


def blobs(seed: int, side: int = 60) -> np.ndarray:
    noise = np.random.default_rng(seed).random((side, side))
    return ndimage.gaussian_filter(noise, 2.0) > 0.5


@pytest.mark.parametrize("seed", range(4))
def test_thinning_is_guo_and_hall_s(seed: int) -> None:
    mask = blobs(seed)
    found = thin(mask, 1000)
    np.testing.assert_array_equal(found, guo_hall(mask))
    # as many parts, by corners, as the mask has; and nothing beyond it
    corners = np.ones((3, 3), int)
    assert ndimage.label(found, corners)[1] == ndimage.label(mask, corners)[1]
    assert not (found & ~mask).any()


def test_a_block_with_its_halo_is_thinned_as_the_whole_is() -> None:
    mask = blobs(7, 160)
    for passes in (1, 3, 6):
        whole, halo = thin(mask, passes), halo_of(passes)
        links, wide = links_of(whole)
        for top, left in ((40, 50), (halo, halo)):
            part = thin(mask[top - halo : top + 50 + halo, left - halo : left + 50 + halo], passes)
            inner = np.s_[halo : halo + 50, halo : halo + 50]
            here = np.s_[top : top + 50, left : left + 50]
            np.testing.assert_array_equal(part[inner], whole[here])
            own, own_wide = links_of(part)
            np.testing.assert_array_equal(own_wide[inner], wide[here])
            at = np.stack([own.rows + top - halo, own.cols + left - halo], axis=1)
            low, high = np.array([top, left]), np.array([top + 50, left + 50])
            mine = {(*xy, n) for xy, n in zip(at.tolist(), own.lengths, strict=True)
                    if (xy >= low).all() and (xy < high).all()}  # fmt: skip
            every = np.stack([links.rows, links.cols], axis=1)
            theirs = {(*xy, n) for xy, n in zip(every.tolist(), links.lengths, strict=True)
                      if (xy >= low).all() and (xy < high).all()}  # fmt: skip
            assert mine == theirs


def test_lengths_of_chains_do_not_depend_on_the_direction_in_the_mean() -> None:
    """Strips of 1 km in 24 directions: within 6 % each, and within 1 % in the mean."""
    found = []
    for angle in np.deg2rad(np.arange(0, 180, 7.5) + 1):
        ends = np.array([[-1, -1], [1, 1]]) * 500 * np.array([np.cos(angle), np.sin(angle)])
        strip = shapely.LineString(ends + 600).buffer(4, cap_style="flat")
        mask = rasterize([strip], (1200, 1200)).astype(bool)
        links, wide = links_of(thin(mask, 6))
        assert not wide.any()
        found.append(links.lengths.sum() / 1000)
    assert np.abs(np.array(found) - 1).max() < 0.06
    assert np.mean(found) == pytest.approx(1, abs=0.012)
    row = np.zeros((3, 11), bool)
    row[1] = True
    assert links_of(row)[0].lengths.sum() == pytest.approx(10 * KULPA)
    assert links_of(np.eye(8, dtype=bool))[0].lengths.sum() == pytest.approx(7 * KULPA * 2**0.5)
    assert passes_for(40, 1.0) == 21


def raster(path: Path, values: np.ndarray, nodata: float | None = 255, crs: str = CRS) -> Path:
    form = {"height": values.shape[0], "width": values.shape[1], "count": 1, "dtype": values.dtype}
    at = Affine(1, 0, WEST, 0, -1, NORTH)
    with rasterio.open(
        path, "w", driver="GTiff", crs=crs, transform=at, nodata=nodata, **form
    ) as file:
        file.write(values, 1)
    return path


def roads(*shapes: Any, side: int = 1500, code: int = 5) -> np.ndarray:
    at = Affine(1, 0, WEST, 0, -1, NORTH)
    found = np.ones((side, side), np.uint8)
    if shapes:
        rasterize([s.buffer(4) for s in shapes], out=found, transform=at, default_value=code)
    return found


def line(*points: tuple[float, float]) -> shapely.LineString:
    return shapely.LineString([(WEST + x, NORTH - y) for x, y in points])


NETWORK = (
    line((0, 300), (1500, 300)),
    line((700, 0), (700, 1500)),
    line((100, 1400), (900, 600), (1400, 1300)),
)


def test_lengths_found_and_right_are_those_of_the_drawing(tmp_path: Path) -> None:
    """One road is missing, one is 3 m off, one is 20 m off."""
    reference = tmp_path / "roads.gpkg"
    geopandas.GeoSeries(NETWORK, crs=CRS).to_crs("EPSG:4326").to_file(reference)
    off = line((703, 0), (703, 1500))
    wrong = line((0, 320), (1500, 320))
    product = raster(tmp_path / "map.tif", roads(off, wrong))
    found = evaluate_lines(product, reference, 5)
    # of 1.5 km wrong 2 x some 8 m lie within 5 m of what crosses it
    ends = NETWORK[2].length
    assert found.lengths["reference"] == pytest.approx((3000 + ends) / 1000, rel=1e-3)
    assert found.lengths["found"] == pytest.approx(1.5, abs=0.05)
    assert found.lengths["map"] == pytest.approx(3.0 * KULPA, rel=0.02)
    assert found.lengths["right"] == pytest.approx(1.5 * KULPA, abs=0.05)
    assert found.figures["completeness"] == pytest.approx(1500 / (3000 + ends), abs=0.02)
    assert found.figures["correctness"] == pytest.approx(0.5, abs=0.02)
    wide = evaluate_lines(product, reference, 5, buffer=25)
    assert wide.figures["correctness"] == pytest.approx(1, abs=0.01)
    assert wide.figures["completeness"] > found.figures["completeness"] + 0.2
    assert found.wide == 0
    assert found.groups == 4


def test_squares_of_any_size_give_the_same_lengths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(1)
    codes = np.where(blobs(3, 300), 5, 1).astype(np.uint8)
    truth = np.where(ndimage.shift(blobs(3, 300), (2, 1)) > 0, 5, 1).astype(np.uint8)
    truth[rng.random(truth.shape) < 0.01] = 9
    product, reference = raster(tmp_path / "a.tif", codes), raster(tmp_path / "b.tif", truth)
    totals = []
    for ground in (1000.0, 130.0, 77.0):
        monkeypatch.setattr(lines_module, "_GROUND", ground)
        found = evaluate_lines(product, reference, 5, buffer=3, widest=20, unknown=(9,))
        totals.append((*found.lengths.values(), found.wide))
    np.testing.assert_allclose(totals[1], totals[0], rtol=1e-9)
    np.testing.assert_allclose(totals[2], totals[0], rtol=1e-9)
    # against everything in memory, by brute force
    known = truth != 9
    (ours, wide), (theirs, _) = (links_of(thin(m == 5, passes_for(20, 1))) for m in (codes, truth))
    at = [np.stack([part.rows, part.cols], axis=1) for part in (ours, theirs)]
    here = [known[tuple(np.floor(xy + 0.5).astype(int).T)] for xy in at]
    apart = np.concatenate(
        [np.hypot(*(one - at[0]).T).min(keepdims=True) for one in at[1][here[1]]]
    )
    expected = theirs.lengths[here[1]][apart <= 3].sum() / 1000
    assert totals[0][0] == pytest.approx(expected, rel=1e-9)
    assert totals[0][-1] == pytest.approx((wide & known).sum() / 1e6)


def test_what_nobody_knows_does_not_count(tmp_path: Path) -> None:
    reference = tmp_path / "roads.geojson"
    geopandas.GeoSeries(NETWORK[:1], crs=CRS).to_crs("EPSG:4326").to_file(reference)
    codes = roads(*NETWORK[:2])
    half = np.ones((1500, 1500), np.uint8)
    half[:, :750] = 0
    within = raster(tmp_path / "within.tif", half, nodata=None)
    found = evaluate_lines(raster(tmp_path / "a.tif", codes), reference, 5, within=within)
    assert found.lengths["reference"] == pytest.approx(0.75, abs=0.001)
    assert found.figures["correctness"] == pytest.approx(1, abs=0.01)
    codes[:, :750] = 255  # as if the map had no data there
    found = evaluate_lines(raster(tmp_path / "b.tif", codes), reference, 5)
    assert found.lengths["reference"] == pytest.approx(0.75, abs=0.001)
    assert not found.notes
    # a road in a square where the reference has none is said to be doubtful
    lonely = roads(NETWORK[0], line((100, 1200), (900, 1200)))
    found = evaluate_lines(raster(tmp_path / "c.tif", lonely), reference, 5)
    assert "none in the reference" in found.notes[0]


def test_a_yard_is_no_line(tmp_path: Path) -> None:
    codes = roads(*NETWORK)
    codes[900:1100, 100:300] = 5
    reference = tmp_path / "roads.fgb"
    geopandas.GeoSeries(NETWORK, crs=CRS).to_file(reference)
    found = evaluate_lines(raster(tmp_path / "a.tif", codes), reference, 5, widest=30)
    assert 0.02 < found.wide <= 0.04
    assert found.figures["correctness"] > 0.98


def test_a_map_in_feet_has_the_lengths_of_one_in_metres(tmp_path: Path) -> None:
    """The same drawing, its pixels of 1 m written as so many US survey feet."""
    foot = 1200 / 3937
    metres = raster(tmp_path / "m.tif", roads(*NETWORK[:2], line((703, 0), (703, 1500))))
    found = []
    for name, crs, unit in (("metres", "EPSG:32118", 1.0), ("feet", "EPSG:2263", foot)):
        with rasterio.open(metres) as file:
            values, form = file.read(), file.profile
        at = Affine(1 / unit, 0, 300_000 / unit, 0, -1 / unit, 60_000 / unit)
        with rasterio.open(
            tmp_path / f"{name}.tif", "w", **form | {"crs": crs, "transform": at}
        ) as f:
            f.write(values)
        to = [1 / unit, 0, 0, 1 / unit, (300_000 - WEST) / unit, (60_000 - NORTH) / unit]
        moved = [shapely.affinity.affine_transform(shape, to) for shape in NETWORK]
        geopandas.GeoSeries(moved, crs=crs).to_file(tmp_path / f"{name}.gpkg")
        found.append(evaluate_lines(tmp_path / f"{name}.tif", tmp_path / f"{name}.gpkg", 5))
    for key, expected in found[0].lengths.items():
        assert found[1].lengths[key] == pytest.approx(expected, rel=2e-3), key
    assert found[0].lengths["found"] > 2.9


def test_lines_across_180_degrees_are_short(tmp_path: Path) -> None:
    """A road of 2 km, whose longitudes jump from 180 to -180."""
    path = tmp_path / "fiji.geojson"
    ways = [[(179.99, -17.0), (-179.99, -17.0)], [(179.99, -17.01), (180.0, -17.01)]]
    geopandas.GeoSeries(map(shapely.LineString, ways), crs="EPSG:4326").to_file(path)
    (layer,) = read_lines(path, MetricError)
    (long, short) = (reproject(shape, layer.crs, "EPSG:32760").length for shape in layer.lines)
    assert long == pytest.approx(2 * short, rel=1e-3)
    assert long == pytest.approx(0.02 * 111_320 * np.cos(np.radians(17)), rel=2e-3)


def test_the_command_prints_and_keeps_figures(tmp_path: Path) -> None:
    reference = tmp_path / "roads.gpkg"
    geopandas.GeoSeries(NETWORK, crs=CRS).to_file(reference)
    product = raster(tmp_path / "map.tif", roads(*NETWORK[:2]))
    out = tmp_path / "out"
    told = CliRunner().invoke(
        app, ["evaluate", str(product), str(reference), "--lines", "5", "--out", str(out)]
    )
    assert told.exit_code == 0, told.output
    assert "completeness" in told.output
    assert "km of the reference found" in told.output
    kept = json.loads((out / "accuracy.json").read_text())
    assert kept["figures"]["correctness"] == pytest.approx(1, abs=0.01)
    assert kept["buffer_m"] == 5
    found = engine.evaluate(product, reference, lines=5)
    assert isinstance(found, LineEvaluation)
    assert found.figures["completeness"] == pytest.approx(kept["figures"]["completeness"], abs=1e-4)
    low, high = found.intervals["completeness"][1:]
    assert low <= found.figures["completeness"] <= high


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"line": "road"}, "no such class of lines"),
        ({"buffer": 0.0}, "cannot be meant"),
        ({"buffer": float("nan")}, "cannot be meant"),
        ({"widest": 500.0}, "cannot be meant"),
        ({"codes": (3,)}, "codes are of a reference raster"),
        ({"reference": "none.gpkg"}, "no such reference"),
        ({"reference": "far.gpkg"}, "no line on the map's ground"),
        ({"reference": "points.gpkg"}, "has no line"),
        ({"reference": "text.gpkg"}, "cannot be read"),
        ({"reference": "lines.kml"}, "form that is not read"),
        ({"reference": "roads.gpkg#paths"}, "no layer of that name"),
        ({"reference": "map.tif", "codes": (9,)}, "the reference has no line"),
        ({"reference": "map.tif", "codes": (5,), "unknown": (5,)}, "both lines and unknown"),
        ({"product": "degrees.tif"}, "in degrees"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    geopandas.GeoSeries(NETWORK, crs=CRS).to_file(tmp_path / "roads.gpkg")
    far = geopandas.GeoSeries([shapely.LineString([(0, 0), (9, 9)])], crs=CRS)
    far.to_file(tmp_path / "far.gpkg")
    points = geopandas.GeoSeries([shapely.Point(WEST + 5, NORTH - 5)], crs=CRS)
    points.to_file(tmp_path / "points.gpkg")
    (tmp_path / "text.gpkg").write_text("no")
    (tmp_path / "lines.kml").write_text("<kml></kml>")
    raster(tmp_path / "map.tif", roads(*NETWORK))
    values = np.ones((20, 20), np.uint8)
    at = Affine(1e-5, 0, 15, 0, -1e-5, 45)
    form = {"height": 20, "width": 20, "count": 1, "dtype": "uint8", "crs": "EPSG:4326"}
    with rasterio.open(tmp_path / "degrees.tif", "w", driver="GTiff", transform=at, **form) as file:
        file.write(values, 1)
    told = {"product": "map.tif", "reference": "roads.gpkg", "line": 5, **change}
    product, reference = (tmp_path / str(told.pop(name)) for name in ("product", "reference"))
    with pytest.raises(MetricError, match=said):
        evaluate_lines(product, reference, **told)  # type: ignore[arg-type]
