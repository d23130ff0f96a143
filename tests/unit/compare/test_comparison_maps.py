"""`natmap compare` of finished maps: numpy counts the same cells, whatever knows their class."""

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
from pyproj import Transformer

from engine.compare import map_grounds
from engine.compare.comparison import compare_systems
from engine.compare.sample import sample
from engine.datasets.patches import PatchSet, Place, write_patches
from engine.errors import CardError, LabelError, MetricError, NatmapError
from engine.models.footprint import Footprint, Ground, write_footprint
from engine.sites.strata import sample_strata

SHAPE = (90, 130)
WEST, NORTH, CRS = 400_000, 5_000_000, "EPSG:32633"
draw = np.random.default_rng(5)
TRUTH = draw.integers(0, 18, SHAPE).astype(np.uint8)  # 0: nobody knows
FIRST = np.where(draw.random(SHAPE) < 0.3, draw.integers(1, 18, SHAPE), np.maximum(TRUTH, 1))
SECOND = np.where(draw.random(SHAPE) < 0.5, draw.integers(1, 18, SHAPE), np.maximum(TRUTH, 1))
FIRST, SECOND = FIRST.astype(np.uint8), SECOND.astype(np.uint8)
FIRST[:30, :40] = 0
SECOND[20:50, 100:] = 0


def write(
    path: Path, values: np.ndarray, nodata: float | None = 0, metres: float = 100.0, **more: Any
) -> Path:
    at = {"crs": CRS, "transform": Affine(metres, 0, WEST, 0, -metres, NORTH)} | more
    form = {"driver": "GTiff", "height": values.shape[0], "width": values.shape[1], "count": 1}
    path.parent.mkdir(exist_ok=True)
    with rasterio.open(path, "w", **form, dtype=values.dtype, **at, nodata=nodata) as file:
        file.write(values, 1)
    return path


@pytest.fixture
def maps(tmp_path: Path) -> list[Path]:
    return [write(tmp_path / "first.tif", FIRST), write(tmp_path / "second.tif", SECOND)]


def test_cells_of_a_raster_are_those_that_numpy_counts(
    tmp_path: Path, maps: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over windows that cut the map, on part of the ground, with a code that says nothing."""
    truth = TRUTH.copy()
    truth[truth == 12] = 99
    part = np.ones(SHAPE, np.uint8)
    part[:, :17] = 0
    reference = write(tmp_path / "truth.tif", truth, None)
    within = write(tmp_path / "part.tif", part, None)
    monkeypatch.setattr(map_grounds, "_AT_ONCE", 2)
    found = compare_systems(maps, reference, within=within, unknown=[99], repeats=30)
    known = (truth > 0) & (truth != 99) & (part == 1)
    both = known & (FIRST > 0) & (SECOND > 0)
    assert found.examples == both.sum()
    assert found.left == {
        "first": int((known & (FIRST == 0)).sum()),
        "second": int((known & (SECOND == 0)).sum()),
    }
    for name, values in (("first", FIRST), ("second", SECOND)):
        assert found.figures[name]["oa"] == pytest.approx((values == truth)[both].mean())
    rows, cols = np.nonzero(both)
    blocks = len(np.unique(rows // 20 * 100 + cols // 20))
    assert found.drawn == f"{blocks} blocks of 20 x 20 cells"
    less = found.ranked[1].less
    assert less is not None
    right = (truth == FIRST)[both], (truth == SECOND)[both]
    assert less.right == ((right[1] & ~right[0]).sum(), (right[0] & ~right[1]).sum())


def test_another_grid_gives_its_nearest_cell(tmp_path: Path, maps: list[Path]) -> None:
    fine = write(tmp_path / "fine.tif", SECOND.repeat(2, 0).repeat(2, 1), metres=50.0)
    reference = write(tmp_path / "truth.tif", TRUTH)
    plain, other = (
        compare_systems([maps[0], second], reference, repeats=2) for second in (maps[1], fine)
    )
    assert other.figures["fine"] == plain.figures["second"]
    assert any("on another grid" in note for note in other.notes)
    assert not any("on another grid" in note for note in plain.notes)


def test_ground_that_trained_one_is_left_out_for_all(tmp_path: Path, maps: list[Path]) -> None:
    folder = tmp_path / "product"
    write(folder / "town.tif", FIRST)
    (folder / "report.json").write_text('{"name": "town", "recipe": {"product": "lcz"}}')
    at = np.array([[WEST + 100 * (60 + 0.5), NORTH - 100 * (70 + 0.5)]])
    write_footprint(folder, Footprint(320.0, (Ground(CRS, at),)))
    reference = write(tmp_path / "truth.tif", TRUTH)
    found = compare_systems([maps[1], folder], reference, repeats=2)
    near = np.zeros(SHAPE, bool)
    near[67:74, 57:64] = True
    both = (TRUTH > 0) & (FIRST > 0) & (SECOND > 0) & ~near
    assert found.examples == both.sum()
    assert f"{(near & (TRUTH > 0)).sum()} cells on ground that trained" in found.notes[0]


def squares(path: Path) -> tuple[Path, np.ndarray]:
    """Training areas of 3 x 3 cells, each of its middle cell's class."""
    back = Transformer.from_crs(CRS, "EPSG:4326", always_xy=True)
    truth, features = np.zeros(SHAPE, int), []
    for row in range(5, 85, 12):
        for col in range(5, 125, 12):
            code = int(TRUTH[row, col]) or 3
            truth[row : row + 3, col : col + 3] = code
            box = shapely.box(
                WEST + col * 100, NORTH - (row + 3) * 100, WEST + (col + 3) * 100, NORTH - row * 100
            )
            ring = shapely.transform(
                shapely.segmentize(box, 100), lambda xy: np.column_stack(back.transform(*xy.T))
            )
            features.append(
                {
                    "type": "Feature",
                    "properties": {"lcz": code},
                    "geometry": json.loads(shapely.to_geojson(ring)),
                }
            )
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path, truth


def test_training_areas_are_drawn_as_a_whole(tmp_path: Path, maps: list[Path]) -> None:
    areas, truth = squares(tmp_path / "areas.geojson")
    found = compare_systems(maps, areas, repeats=20)
    both = (truth > 0) & (FIRST > 0) & (SECOND > 0)
    assert found.examples == both.sum()
    rows, cols = np.nonzero(both)
    number = len(np.unique((rows - 5) // 12 * 100 + (cols - 5) // 12))
    assert found.drawn == f"{number} training areas"
    for name, values in (("first", FIRST), ("second", SECOND)):
        assert found.figures[name]["oa"] == pytest.approx((values == truth)[both].mean())


def test_a_sample_stands_for_the_map_that_it_was_drawn_on(tmp_path: Path, maps: list[Path]) -> None:
    sample(maps[0], tmp_path / "look", standard_error=0.05, least=10)
    cells = json.loads((tmp_path / "look" / "sample.geojson").read_text())
    design = json.loads((tmp_path / "look" / "design.json").read_text())
    truth = np.maximum(TRUTH, 1)
    for feature, (row, col) in zip(cells["features"], design["at"], strict=True):
        feature["properties"]["lcz"] = int(truth[row, col])
    (tmp_path / "look" / "sample.geojson").write_text(json.dumps(cells))
    found = compare_systems(maps, tmp_path / "look", repeats=50)
    at = tuple(np.array(design["at"]).T)
    stratum = FIRST[at]
    sizes = np.bincount(FIRST.ravel(), minlength=18) / np.maximum(
        np.bincount(stratum, minlength=18), 1
    )
    both = (FIRST[at] > 0) & (SECOND[at] > 0)
    for name, values in (("first", FIRST), ("second", SECOND)):
        right = (values[at] == truth[at])[both] * sizes[stratum][both]
        assert found.figures[name]["oa"] == pytest.approx(right.sum() / sizes[stratum][both].sum())
    del cells["features"][0]["geometry"]
    (tmp_path / "look" / "sample.geojson").write_text(json.dumps(cells))
    with pytest.raises(LabelError, match="no place"):
        compare_systems(maps, tmp_path / "look")


def test_a_cell_of_a_sample_stands_for_its_stratum_whatever_that_is(
    tmp_path: Path, maps: list[Path]
) -> None:
    design = sample_strata(maps[0], tmp_path / "look", n=300, grid=5000.0, allocation="mixed")
    assert len(design.cells) > 17
    cells = json.loads((tmp_path / "look" / "sample.geojson").read_text())
    told = json.loads((tmp_path / "look" / "design.json").read_text())
    truth = np.maximum(TRUTH, 1)
    for feature, (row, col) in zip(cells["features"], told["at"], strict=True):
        feature["properties"]["lcz"] = int(truth[row, col])
    (tmp_path / "look" / "sample.geojson").write_text(json.dumps(cells))
    found = compare_systems(maps, tmp_path / "look", repeats=20)
    at = tuple(np.array(told["at"]).T)
    weight = (design.cells / design.sizes)[told["stratum"]]
    both = (FIRST[at] > 0) & (SECOND[at] > 0)
    for name, values in (("first", FIRST), ("second", SECOND)):
        right = (values[at] == truth[at])[both] * weight[both]
        assert found.figures[name]["oa"] == pytest.approx(right.sum() / weight[both].sum())


def test_maps_are_looked_up_at_patches(tmp_path: Path, maps: list[Path]) -> None:
    """Centres in another zone; one beyond the map."""
    rows, cols = draw.integers(0, SHAPE[0], 300), draw.integers(0, SHAPE[1], 300)
    x, y = WEST + cols * 100 + 31.0, NORTH - rows * 100 - 77.0
    xy = np.column_stack(Transformer.from_crs(CRS, "EPSG:32634", always_xy=True).transform(x, y))
    xy[0] += 1e6
    truth = np.maximum(TRUTH[rows, cols], 1)
    found = PatchSet(
        np.ones((300, 1, 8, 8), np.uint16), truth, xy, np.arange(300),
        np.zeros(300, np.uint16), np.full(300, 2, np.uint8), ("B02",), 8, 0, 10.0,
        (Place("a", "2021", "EPSG:32634"),),
    )  # fmt: skip
    write_patches(tmp_path / "set", found)
    seen = compare_systems(maps, tmp_path / "set", repeats=2)
    both = (FIRST[rows, cols] > 0) & (SECOND[rows, cols] > 0)
    both[0] = False
    assert seen.examples == both.sum()
    expected = (SECOND[rows, cols] == truth)[both].mean()
    assert seen.figures["second"]["oa"] == pytest.approx(expected)
    write_patches(
        tmp_path / "set", PatchSet(**vars(found) | {"places": (Place("a", "", "unknown"),)})
    )
    with pytest.raises(MetricError, match="in which CRS"):
        compare_systems(maps, tmp_path / "set")


def test_what_is_no_map_of_these_is_refused(tmp_path: Path, maps: list[Path]) -> None:
    reference = write(tmp_path / "truth.tif", TRUTH)
    strange = write(tmp_path / "strange.tif", np.full(SHAPE, 40, np.uint8))
    empty = write(tmp_path / "empty.tif", np.zeros(SHAPE, np.uint8))
    away = write(tmp_path / "away.tif", FIRST, crs="EPSG:32601")
    placeless = write(tmp_path / "placeless.tif", FIRST, crs=None)
    folder = tmp_path / "green"
    write(folder / "town.tif", np.ones(SHAPE, np.uint8), 255)
    (folder / "report.json").write_text('{"name": "town", "recipe": {"product": "ugs"}}')
    wrong: list[tuple[list[Any], dict[str, Any], type[NatmapError], str]] = [
        ([maps[0], strange], {}, MetricError, "map strange holds codes"),
        ([strange, maps[0]], {}, MetricError, "map strange holds codes"),
        ([maps[0], empty], {}, MetricError, "no example that all"),
        ([maps[0], away], {}, MetricError, "no example that all"),
        ([maps[0], placeless], {}, MetricError, "which CRS"),
        ([maps[0], folder], {}, MetricError, "other classes"),
        ([f"{maps[0]}+{maps[1]}"], {}, MetricError, "no scores"),
        ([maps[0], "lcz-made-up"], {}, MetricError, "on ground it is its map"),
        ([maps[0], tmp_path / "gone.tif"], {}, NatmapError, "gone"),
        (maps, {"split": "train"}, MetricError, "has splits"),
        (maps, {"field": "lcz"}, MetricError, "does not take"),
    ]
    for systems, more, error, words in wrong:
        with pytest.raises(error, match=words):
            compare_systems(systems, reference, **more)
    with pytest.raises(CardError):
        compare_systems([tmp_path], reference)  # neither a card nor a product


def test_memory_follows_what_maps_say_not_their_size(tmp_path: Path) -> None:
    """9 million cells in patches of 40 x 40; one array of all of them as numbers is 72 MB."""
    coarse = draw.integers(1, 18, (75, 75)).astype(np.uint8)
    whole = coarse.repeat(40, 0).repeat(40, 1)
    maps = [
        write(tmp_path / "one.tif", whole),
        write(tmp_path / "two.tif", np.where(whole == 3, 4, whole).astype(np.uint8)),
    ]
    reference = write(tmp_path / "truth.tif", whole)
    compare_systems(maps, reference, repeats=2)  # what libraries keep
    tracemalloc.start()
    found = compare_systems(maps, reference, repeats=2)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.examples == whole.size
    assert found.figures["two"]["oa"] == pytest.approx((whole != 3).mean())
    assert peak < 120e6
