"""Chip sets: which rows are read, where they have data, how their images are grouped."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from odc.geo.geobox import GeoBox
from pyproj import Transformer

from engine.datasets.chip_cutting import _warped
from engine.datasets.chip_splits import split_chips
from engine.datasets.chips import ChipSet, open_chips, require_masks, write_chips
from engine.datasets.splits import find_leaks, split_by_block
from engine.errors import LabelError
from engine.recipes.segmenting import SegmenterSplit

SIDE = 8


def chips(n: int, places: int = 1, *, known: bool = True, seed: int = 0) -> ChipSet:
    """Each image tells its number in its first two bands."""
    x = np.zeros((n, 3, SIDE, SIDE), np.uint8)
    x[:, 0], x[:, 1] = ((np.arange(n) // k % 256)[:, None, None] for k in (1, 256))
    rng = np.random.default_rng(seed)
    return ChipSet(
        x,
        np.zeros((n, SIDE, SIDE), np.uint8),
        rng.uniform((0, 0), (9000, 3000), (n, 2)) if known else np.full((n, 2), np.nan),
        np.sort(rng.integers(0, places, n)).astype(np.uint16),
        np.where(np.arange(n) % 5 == 4, 1, 0).astype(np.uint8),
        ("B04", "B03", "B02"),
        tuple(f"place {k}" for k in range(places)),
    )


def numbers(images: np.ndarray) -> np.ndarray:
    return images[:, 0, 0, 0] + 256 * images[:, 1, 0, 0].astype(int)


def test_a_split_reads_its_own_rows_alone(tmp_path: Path) -> None:
    n = 64
    found = chips(n)
    found.split[:] = np.arange(n) // 32
    write_chips(tmp_path / "chips", found)
    for path in (tmp_path / "chips" / "chips" / "x" / "c").iterdir():
        if int(path.name) >= 2:  # 16 chips to a chunk: those of validation
            for file in (p for p in path.rglob("*") if p.is_file()):
                file.write_bytes(b"damaged")
    again = open_chips(tmp_path / "chips")
    assert numbers(again.of("train")[0]).tolist() == list(range(32))
    assert len(again.of("test")[0]) == 0
    with pytest.raises(Exception, match=r"(?s)."):
        again.of("validation")


def test_where_there_is_data_is_kept_and_older_sets_open(tmp_path: Path) -> None:
    old, new = chips(10), chips(10, seed=1)
    seen = np.ones((10, SIDE, SIDE), bool)
    seen[:5, 0] = False
    new = replace(new, seen=seen)
    write_chips(tmp_path / "old", old)
    assert not (tmp_path / "old" / "chips" / "seen").exists()
    assert open_chips(tmp_path / "old").of("train")[2] is None
    write_chips(tmp_path / "both", old, new)
    both = open_chips(tmp_path / "both")
    assert numbers(both.take(np.arange(20))[0]).tolist() == 2 * list(range(10))
    assert both.place.tolist() == [0] * 10 + [1] * 10
    np.testing.assert_array_equal(both.xy, np.concatenate([old.xy, new.xy]))
    train = np.flatnonzero(both.split == 0)
    wanted = np.concatenate([np.ones_like(seen), seen])[train]
    found = both.of("train")[2]
    assert found is not None
    np.testing.assert_array_equal(found, wanted)
    assert both.of("validation")[2] is not None  # number 4 of the new ones
    assert both.take(np.arange(10))[2] is None  # everywhere: nothing to be said


def town(west: float, south: float, name: str = "town", across: int = 40) -> ChipSet:
    """Chips beside one another, of as many metres as pixels."""
    x, y = np.meshgrid(
        west + SIDE * (np.arange(across) + 0.5), south + SIDE * (np.arange(40) + 0.5)
    )
    found = chips(x.size)
    return replace(found, xy=np.stack([x.ravel(), y.ravel()], 1), places=(name,))


def painted(part: ChipSet, code: int, split: np.ndarray) -> np.ndarray:
    """Each square metre of the ground, from the first town's corner on: is it of one split?"""
    found = np.zeros((400, 900), bool)
    corners = (part.xy[split == code] - SIDE / 2).astype(int) - (400_000, 5_000_000)
    for x, y in corners.tolist():
        found[y : y + SIDE, x : x + SIDE] = True
    return found


CHOICE = SegmenterSplit(side=40, shares=(0.5, 0.2, 0.3))
UTM = "EPSG:32633"


def test_ground_that_places_share_is_on_one_side() -> None:
    """The second year on a lattice of its own, and a third place that meets the second alone."""
    parts = [town(400_000, 5_000_000), town(400_203, 5_000_003), town(400_500, 5_000_001)]
    codes = split_chips(CHOICE, parts, [UTM] * 3)
    for code in range(3):
        mine = [painted(part, code, split) for part, split in zip(parts, codes, strict=True)]
        for other in {0, 1, 2} - {code}:
            theirs = [painted(part, other, split) for part, split in zip(parts, codes, strict=True)]
            assert all(part.any() for part in mine)
            assert not (np.any(mine, axis=0) & np.any(theirs, axis=0)).any()


def test_places_that_only_touch_are_drawn_apart() -> None:
    parts = [town(400_000, 5_000_000), town(400_320, 5_000_000), town(900_000, 5_000_000)]
    codes = split_chips(CHOICE, parts, [UTM, UTM, "EPSG:5179"])
    for number, (part, found) in enumerate(zip(parts, codes, strict=True)):
        alone = split_by_block(part.xy, SIDE - 1e-6, 40, CHOICE.shares, CHOICE.seed + number)
        np.testing.assert_array_equal(found, alone)


def test_chips_of_10_m_are_apart_by_metres_and_those_that_touch_are_kept() -> None:
    part = town(400_000, 5_000_000)
    wide = replace(part, xy=part.xy * 10, resolution=10.0)
    choice = SegmenterSplit(side=40 * SIDE, shares=(0.5, 0.2, 0.3))
    (codes,) = split_chips(choice, [wide], [UTM])
    assert find_leaks(wide.xy, codes, 10.0 * SIDE) == 0
    assert (codes == 255).sum() == 0  # blocks are whole chips here: none reaches into another
    assert len(set(codes.tolist())) == 3
    between = replace(wide, xy=wide.xy + 5 * SIDE)
    (codes,) = split_chips(choice, [between], [UTM])
    assert find_leaks(between.xy, codes, 10.0 * SIDE) == 0
    assert (codes == 255).any()


def test_shared_ground_in_two_crss_is_refused() -> None:
    same = Transformer.from_crs(UTM, "EPSG:3035", always_xy=True).transform(400_160, 5_000_160)
    parts = [town(400_000, 5_000_000, "before"), town(*same, "after")]
    with pytest.raises(LabelError, match=r"before: EPSG:32633, after: EPSG:3035(.|\n)*grid.crs"):
        split_chips(CHOICE, parts, [UTM, "EPSG:3035"])
    away = town(same[0] + 2000, same[1], "after")
    split_chips(CHOICE, [parts[0], away], [UTM, "EPSG:3035"])
    by_place = SegmenterSplit(by="place", validation=("after",))
    codes = split_chips(by_place, parts, [UTM, "EPSG:3035"])
    assert [set(found.tolist()) for found in codes] == [{0}, {1}]


def test_no_chip_set_is_said_to_be_none(tmp_path: Path) -> None:
    with pytest.raises(LabelError, match="cannot be read"):
        open_chips(tmp_path)


def test_labels_of_a_raster_mean_what_they_say(tmp_path: Path) -> None:
    """Whatever its type: NaN and nodata are unknown, fractions are kept to be refused."""
    at = Affine(1, 0, 400_000, 0, -1, 5_000_000)
    box = GeoBox((4, 4), at, "EPSG:32633")
    form = {"driver": "GTiff", "height": 4, "width": 4, "count": 1, "crs": "EPSG:32633"}
    values = np.ones((4, 4))
    values[0], values[1] = np.nan, 0.6
    for kind, nodata, unknown in (("float32", None, 4), ("float64", 1.0, 12), ("int16", -9, 4)):
        told = np.where(np.isnan(values), -9, values) if kind == "int16" else values
        path = tmp_path / f"{kind}.tif"
        with rasterio.open(path, "w", **form, dtype=kind, transform=at, nodata=nodata) as file:
            file.write(told.astype(kind), 1)
        with rasterio.open(path) as file:
            found = _warped(file, box)
        assert (found == 255).sum() == unknown
        if kind == "float32":
            with pytest.raises(LabelError, match=r"other values(.|\n)*0\.6"):
                require_masks(found, "town")
