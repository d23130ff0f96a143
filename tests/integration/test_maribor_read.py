"""The block reader on real scenes, against straight readings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from affine import Affine
from odc.geo.geobox import GeoBox
from support.maribor import (
    BANDS,
    CORNER,
    SIDE,
    SOME,
    bilinear,
    items,
    median,
    of_scenes,
    pixels,
    usable,
)

from engine.cube.clouds import find_usable
from engine.cube.composite import reduce_days
from engine.cube.read import item_key, read_day
from engine.items import SCL, Item

NAMES = list(BANDS)


def box(crs: str, west: float, north: float, height: int, width: int) -> GeoBox:
    return GeoBox((height, width), Affine(120, 0, west, 0, -120, north), crs)


def by_day(found: list[Item]) -> dict[object, list[Item]]:
    days: dict[object, list[Item]] = {}
    for item in found:
        days.setdefault(item.solar_day, []).append(item)
    return days


@pytest.mark.parametrize(
    ("tile", "names"),
    [
        ("33TWM", SOME),
        *(pytest.param(tile, NAMES, marks=pytest.mark.soak) for tile in ("33TWM", "33TWL")),
    ],
    ids=["33TWM", "33TWM-all", "33TWL-all"],
)
def test_an_aligned_tile_is_read_pixel_for_pixel(data: Path, tile: str, names: list[str]) -> None:
    found = items(data, tile)
    assert len(found) == 5
    west, north = CORNER[tile]
    stack, masks, expected, clear = [], [], [], []
    for item in found:
        day = read_day([item], names, box("EPSG:32633", west, north, SIDE, SIDE), (west, north))
        raw = np.stack([pixels(item, name) for name in names])
        scl = pixels(item, SCL)
        has = (raw != 0).all(axis=0) & (scl != 0)
        assert (day.bands == np.where(has, raw + 1000, 0)).all()
        assert (day.scl == np.where(has, scl, 0)).all()
        assert (day.source == np.where(has, item_key(item.id), 0)).all()
        assert day.failures == ()
        stack.append(day.bands)
        masks.append(find_usable(day.scl, 120.0, 60.0))
        expected.append(np.where(has, raw + 1000, 0))
        clear.append(usable(np.where(has, scl, 0), 0.5))
    made = reduce_days("median", np.stack(stack), np.stack(masks))
    seen = np.stack(clear)
    assert (np.stack(masks).sum(axis=0) == seen.sum(axis=0)).all()
    assert (made == median(np.stack(expected), seen)).all()


@pytest.mark.parametrize(
    ("side", "names"),
    [(300, SOME), pytest.param(600, NAMES, marks=pytest.mark.soak)],
    ids=["300", "600"],
)
@pytest.mark.parametrize(
    ("crs", "west", "north"),
    [("EPSG:32633", 508_800.0, 5_163_600.0), ("EPSG:3035", 4_710_000.0, 2_620_080.0)],
)
def test_elsewhere_the_reader_is_exact_bilinear(
    data: Path, crs: str, west: float, north: float, side: int, names: list[str]
) -> None:
    height = width = side
    x = west + (np.arange(width) + 0.5) * 120
    y = north - (np.arange(height) + 0.5) * 120
    px, py = of_scenes(*np.meshgrid(x, y), crs)
    compared = 0
    for item in items(data)[:4]:
        day = read_day([item], names, box(crs, west, north, height, width), (0.0, 0.0))
        for position, name in enumerate(names):
            exact = bilinear(item, name, px, py) + 1000
            both = np.isfinite(exact) & (day.bands[position] > 0)
            if not both.any():
                continue
            off = np.abs(day.bands[position][both] - exact[both])
            compared += int(both.sum())
            assert off.max() <= 4, (item.id, name, off.max(), off.mean())
    assert compared > 0.35 * len(names) * side**2


def test_reading_does_not_depend_on_the_window(data: Path) -> None:
    day = by_day(items(data))
    pair = next(found for found in day.values() if len(found) == 2)
    west, north = 4_740_000.0, 2_592_000.0
    whole = read_day(pair, SOME, box("EPSG:3035", west, north, 500, 640), (0.0, 0.0))
    assert (whole.bands[0] > 0).mean() > 0.5
    rng = np.random.default_rng(0)
    for _ in range(4):
        top, left = rng.integers(0, 300, 2)
        height, width = rng.integers(1, 200, 2)
        part = read_day(
            pair,
            SOME,
            box("EPSG:3035", west + 120 * left, north - 120 * top, height, width),
            (0.0, 0.0),
        )
        window = np.s_[..., top : top + height, left : left + width]
        assert (part.bands == whole.bands[window]).all()
        assert (part.scl == whole.scl[window]).all()
        assert (part.source == whole.source[window]).all()


def test_where_tiles_overlap_the_first_item_with_data_wins(data: Path) -> None:
    days = by_day(items(data))
    assert len(days) == 5
    west, north = 499_980.0, 5_110_020.0
    both = 0
    for found in days.values():
        first, second = sorted(found, key=lambda item: item.id)
        window = box("EPSG:32633", west, north, 160, 500)
        merged = read_day(found, SOME, window, (west, north))
        alone = [read_day([item], SOME, window, (west, north)) for item in (first, second)]
        has = [day.source != 0 for day in alone]
        both += int((has[0] & has[1]).sum())
        expected = np.where(has[0], alone[0].bands, alone[1].bands)
        assert (merged.bands == expected).all()
        keys = np.where(has[0], item_key(first.id), np.where(has[1], item_key(second.id), 0))
        assert (merged.source == keys).all()
    assert both > 10_000
