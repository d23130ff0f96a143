"""A whole map in one pass: any blocks, threads, turns and interruptions, the same integers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine
from pyproj import CRS, Geod
from rasterio.features import rasterize

from engine.errors import AreaError, LabelError
from engine.sites.counts import Counts, count
from engine.sites.ground import PixelAreas
from engine.sites.indices import indices, uneven
from engine.sites.regions import Region, RegionMap, clipped_grid
from engine.sites.source import NOTHING, RasterMap

GROUND = Affine(30, 0, 4_000_000, 0, -30, 3_000_000)


def write(
    path: Path, codes: np.ndarray, crs: str = "EPSG:3035", at: Affine = GROUND, **more
) -> Path:  # type: ignore[no-untyped-def]
    form = {"height": codes.shape[0], "width": codes.shape[1], "count": 1, "dtype": codes.dtype}
    with rasterio.open(path, "w", driver="GTiff", crs=crs, transform=at, **form, **more) as file:
        file.write(codes, 1)
    return path


def patches(shape: tuple[int, int], grain: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    coarse = rng.choice([0, 10, 20, 60, 255], (shape[0] // grain + 1, shape[1] // grain + 1))
    return np.kron(coarse, np.ones((grain, grain), int))[: shape[0], : shape[1]].astype(np.uint8)


def halves(at: Affine, shape: tuple[int, int]) -> list[Region]:
    """Two regions, the border of which is slanted; the corner is in none."""
    west, north = at @ (0, 0)
    east, south = at @ (shape[1], shape[0])
    middle = (west + east) / 2
    left = [(west, north), (middle, north), (middle - 300, south), (west, south)]
    right = [(middle, north), (east, north), (east, south + 400), (east - 400, south)]
    right += [(middle - 300, south)]
    return [Region("left", shapely.Polygon(left)), Region("right", shapely.Polygon(right))]


def same(one: Counts, other: Counts) -> bool:
    return all(
        np.array_equal(getattr(one, name), getattr(other, name))
        for name in ("pieces", "edges", "outline")
    )


@pytest.fixture
def codes() -> np.ndarray:
    return patches((150, 170), 7)


def test_the_integers_are_those_of_numpy(codes: np.ndarray, tmp_path: Path) -> None:
    """A count written straight, with regions of GDAL's own over the whole raster."""
    shape = codes.shape
    regions = halves(GROUND, shape)
    found = count(
        RasterMap(write(tmp_path / "map.tif", codes, nodata=255), None, [0]),
        RegionMap(regions, GROUND, shape),
        20,
        block=64,
        threads=2,
    )
    where = rasterize(
        [(r.geometry, k) for k, r in enumerate(regions)],
        shape,
        fill=-1,
        transform=GROUND,
        dtype="int32",
    )
    where[np.isin(codes, (0, 255))] = -1
    label = np.pad(np.where(where >= 0, where * 256 + codes, -1), 1, constant_values=-1)
    mine = label[1:-1, 1:-1]
    sides = [label[1:-1, 2:], label[2:, 1:-1], label[1:-1, :-2], label[:-2, 1:-1]]
    for region in (0, 1):
        there = mine // 256 == region
        assert found.outline[region] == sum((there & (s // 256 != region)).sum() for s in sides)
    for region, kind, edges in found.edges.tolist():
        there = mine == region * 256 + kind
        assert edges == sum((there & (s != mine)).sum() for s in sides)
        inside = found.pieces[(found.pieces["region"] == region) & (found.pieces["kind"] == kind)]
        assert inside["pixels"].sum() == there.sum()
    rows, cols = np.nonzero((mine == 256 + 20)[40:60, 100:120])
    [piece] = found.pieces[
        (found.pieces["row"] == 2)
        & (found.pieces["col"] == 5)
        & (found.pieces["region"] == 1)
        & (found.pieces["kind"] == 20)
    ]
    alone = np.zeros((22, 22), bool)
    alone[rows + 1, cols + 1] = True
    assert piece["pixels"] == len(rows)
    assert piece["edges"] == sum(
        (alone & ~np.roll(alone, s, a)).sum() for s in (1, -1) for a in (0, 1)
    )


def test_blocks_and_threads_change_nothing(codes: np.ndarray, tmp_path: Path) -> None:
    source = RasterMap(write(tmp_path / "map.tif", codes, nodata=255))
    regions = RegionMap(halves(GROUND, codes.shape), GROUND, codes.shape)
    whole = count(source, regions, 20, block=2048, threads=1)
    for block, threads in ((1, 2), (13, 3), (20, 1), (64, 2)):
        assert same(whole, count(source, regions, 20, block=block, threads=threads))


def test_a_turn_changes_no_index(codes: np.ndarray, tmp_path: Path) -> None:
    codes = codes[:140, :160]  # whole units
    everywhere = [Region("all", shapely.box(3e6, 2e6, 5e6, 4e6))]

    def values(raster: np.ndarray) -> list[np.ndarray]:
        source = RasterMap(write(tmp_path / "map.tif", raster, nodata=255))
        found = count(source, RegionMap(everywhere, GROUND, raster.shape), 20)
        regions, classes, units = indices(found)
        return [regions.lsi, classes.lsi, np.sort(units.lsi)]

    for turns in (1, 2, 3):
        for one, other in zip(values(codes), values(np.rot90(codes, turns)), strict=True):
            assert np.array_equal(one, other)


def test_an_interrupted_pass_resumes(
    codes: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "map.tif", codes, nodata=255)
    regions = RegionMap(halves(GROUND, codes.shape), GROUND, codes.shape)
    whole = count(RasterMap(path), regions, 20, block=32)

    def stop(done: int, of: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        count(RasterMap(path), regions, 20, block=32, kept=tmp_path / "kept", tell=stop)
    files = sorted((tmp_path / "kept").iterdir())
    assert len(files) == 3
    files[1].write_bytes(files[1].read_bytes()[:100])  # a disk that was full
    source = RasterMap(path)
    read: list[int] = []
    straight = source.read

    def watched(rows: slice, cols: slice) -> np.ndarray:
        read.append(rows.start)
        return straight(rows, cols)

    monkeypatch.setattr(source, "read", watched)
    assert same(whole, count(source, regions, 20, block=32, kept=tmp_path / "kept"))
    assert 0 not in read
    assert min(read) == 31  # the second row, with its halo
    assert not list((tmp_path / "kept").iterdir())


def test_areas_are_geodesic() -> None:
    """Of degrees exactly; of metres to a millionth where the projection is of equal area."""
    degrees = Affine(0.5, 0, 100, 0, -0.5, 50)
    areas = PixelAreas(CRS("EPSG:4326"), degrees, (60, 40), 4)
    rows = areas.weights(slice(10, 12), slice(0, 8))
    assert rows.shape == (2, 2)
    lats = 50 - 0.5 * 10, 50 - 0.5 * 11
    lon = np.linspace(100, 100.5, 200)  # parallels are no geodesics
    ring = np.concatenate([lon, lon[::-1]]), np.repeat(lats, 200)
    expected, _ = Geod(ellps="WGS84").polygon_area_perimeter(*ring)
    assert rows[0, 0] * areas.quantum == pytest.approx(abs(expected), rel=3e-6)
    plane = PixelAreas(CRS("EPSG:3035"), GROUND, (3000, 3000), 100)
    assert plane.weights(slice(0, 1), slice(0, 1))[0, 0] * plane.quantum == pytest.approx(
        900, rel=1e-5
    )
    mercator = PixelAreas(CRS("EPSG:3857"), Affine(10, 0, 0, 0, -10, 8_399_738), (100, 100), 50)
    found = mercator.weights(slice(0, 1), slice(0, 1))[0, 0] * mercator.quantum
    assert found == pytest.approx(25, rel=0.02)  # a scale of 2 at 60 degrees


def test_squares_clipped_to_a_country_have_like_sizes() -> None:
    country = (
        shapely.box(0, 0, 10, 10)
        .union(shapely.box(10, 4, 10.5, 5))
        .union(shapely.box(30, 30, 30.2, 30.2))
    )
    found, notes = clipped_grid(country, 5)
    assert len(found) == 4
    assert sum(region.geometry.area for region in found) == pytest.approx(country.area)
    assert sum(region.merged for region in found) == 2
    assert "2 pieces" in notes[0]
    assert {r.name for r in found if r.merged} == {found[1].name, found[3].name}
    with pytest.raises(AreaError, match="makes no sense"):
        clipped_grid(country, 0)
    assert len(clipped_grid(country, 5, least=0)[0]) == 6


@pytest.mark.parametrize(
    ("regions", "match"),
    [
        ([Region("a", shapely.box(0, 0, 2, 2)), Region("b", shapely.box(1, 1, 3, 3))], "overlap"),
        ([Region("a", shapely.box(0, 0, 1, 1)), Region("a", shapely.box(5, 5, 6, 6))], "a name"),
        ([Region("a", shapely.box(70, 70, 71, 71))], "no region meets the map"),
    ],
)
def test_regions_that_make_no_sense_are_refused(regions: list[Region], match: str) -> None:
    with pytest.raises(AreaError, match=match):
        RegionMap(regions, Affine(1, 0, 0, 0, -1, 10), (10, 10))


def test_a_map_is_read_as_what_it_says(tmp_path: Path) -> None:
    codes = np.array([[1, 2], [9, 300]], np.uint16)
    source = RasterMap(write(tmp_path / "a.tif", codes, nodata=9), None, [2])
    assert source.read(slice(0, 2), slice(0, 2)).tolist() == [[1, NOTHING], [NOTHING, 300]]
    shares = np.array([[0.5, np.nan]], np.float32)
    with pytest.raises(LabelError, match="not codes of classes"):
        RasterMap(write(tmp_path / "b.tif", shares)).read(slice(0, 1), slice(0, 2))
    whole = RasterMap(write(tmp_path / "c.tif", np.array([[3, np.nan]], np.float32)))
    assert whole.read(slice(0, 1), slice(0, 2)).tolist() == [[3, NOTHING]]
    with pytest.raises(LabelError, match="rotated"):
        RasterMap(write(tmp_path / "d.tif", codes, at=Affine(1, 1, 0, 1, -1, 0)))
    with pytest.raises(LabelError, match="cannot be read"):
        RasterMap(tmp_path / "none.tif")


def test_the_published_form_and_fragstats(tmp_path: Path) -> None:
    """Anchors of the specification, and the pairs of both forms that prototypes measured."""
    everywhere = [Region("all", shapely.box(3e6, 2e6, 5e6, 4e6))]

    def values(raster: np.ndarray, **form) -> tuple[list[float], list[float]]:  # type: ignore[no-untyped-def]
        source = RasterMap(write(tmp_path / "map.tif", raster.astype(np.uint8)))
        found = count(source, RegionMap(everywhere, GROUND, raster.shape), 100)
        regions, classes, _ = indices(found, **form)
        return regions.lsi.tolist(), classes.lsi.tolist()

    board = np.indices((8, 8)).sum(axis=0) % 2
    split = np.repeat([[0] * 4 + [1] * 4], 8, axis=0)
    assert values(np.ones((8, 8))) == ([1.0], [1.0])
    assert values(np.ones((1, 16))) == ([2.125], [2.125])
    assert values(board) == ([4.5], pytest.approx([5.656854] * 2))
    assert values(board, inner="twice")[0] == [8.0]
    assert values(split) == ([1.25], pytest.approx([1.06066] * 2))
    assert values(split, inner="twice")[0] == [1.5]
    assert values(split, form="fragstats")[1] == [1.0, 1.0]
    with pytest.raises(LabelError, match="no such index"):
        values(board, form="other")
    assert uneven([1.0, 3.9]) is None
    assert "8 times" in str(uneven([1.0, 8.0]))
