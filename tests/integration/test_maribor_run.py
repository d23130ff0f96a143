"""`run --until composite` on the real static catalogue, against independent computations."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from pyproj import Transformer
from support.maribor import (
    BANDS,
    CORNER,
    SIDE,
    SOME,
    bilinear,
    catalogue,
    items,
    median,
    of_scenes,
    pixels,
    usable,
)
from support.shared import run

from engine.cube.read import item_key
from engine.items import SCL
from engine.pipeline.verbs import plan
from engine.store.view import open_store

NAMES = list(BANDS)
pytestmark = pytest.mark.slow


def recipe(data: Path, folder: Path, *tiles: str, **grid: Any) -> dict[str, Any]:
    return {
        "name": "maribor",
        "product": "lcz",
        "area": {"bbox": [15.0, 45.2, 16.2, 46.8]},
        "grid": {"crs": "EPSG:32633", "resolution": 120, "tile": 915, "chunk": 305, **grid},
        "imagery": {
            "catalog": str(catalogue(data, folder, *tiles)),
            "period": "2023-08-01/2023-08-31",
            "bands": NAMES,
        },
        "store": str(folder / "store"),
    }


@pytest.mark.parametrize(
    ("tile", "beyond"),
    [
        ("33TWM", 0.0),
        *(pytest.param(tile, 0.6, marks=pytest.mark.soak) for tile in ("33TWM", "33TWL")),
    ],
)
def test_one_mgrs_tile_on_its_own_lattice(
    data: Path, tmp_path: Path, tile: str, beyond: float
) -> None:
    """Scenes, composite and observations equal numpy, pixel for pixel; the offset added once.

    In 20 km of it, or all of it and what is beyond.
    """
    west, north = CORNER[tile]
    wanted = recipe(
        data,
        tmp_path,
        tile,
        origin=[west, north],
        tile=915 if beyond else 305,
        chunk=305,
    )
    names = wanted["imagery"]["bands"] = NAMES if beyond else SOME
    to_degrees = Transformer.from_crs("EPSG:32633", "EPSG:4326", always_xy=True)
    reach = 15e3 if beyond else 10e3
    x, y = west + 55e3 + np.array([-reach, reach]), north - 55e3 + np.array([-reach, reach])
    lon, lat = to_degrees.transform(x, y)
    wanted["area"] = {
        "bbox": [lon.min() - beyond, lat.min() - beyond, lon.max() + beyond, lat.max() + beyond]
    }
    summary = run(wanted, until="composite")
    assert summary.failed == ()
    tree = open_store(wanted["store"], decode=False)
    found = items(data, tile)
    assert len(found) == 5
    first, last = (0, SIDE) if beyond else (380, 536)
    window = np.s_[first:last, first:last]
    cut = {
        "x": slice(west + 120 * first, west + 120 * last),
        "y": slice(north - 120 * first, north - 120 * last),
    }
    scenes, composite = (
        tree["scenes"].to_dataset().sel(cut),
        tree["composite"].to_dataset().sel(cut),
    )
    inside = composite.reason.values != 1  # the area is smaller than the MGRS tile's frame
    assert inside.shape == (last - first, last - first)
    assert inside.mean() > 0.9
    stack, seen = [], []
    for item in found:
        raw = np.stack([pixels(item, name)[window] for name in names])
        scl = pixels(item, SCL)[window]
        has = (raw != 0).all(axis=0) & (scl != 0)
        day = scenes.sel(time=np.datetime64(item.solar_day)).load()
        expected = np.where(has, raw + 1000, 0)
        # Scenes reach further than the composite; compare where the composite is defined.
        assert (day.bands.values[:, inside] == expected[:, inside]).all()
        assert (day.scl.values[inside] == np.where(has, scl, 0)[inside]).all()
        assert (day.source.values[inside] == np.where(has, item_key(item.id), 0)[inside]).all()
        stack.append(expected)
        seen.append(usable(np.where(has, scl, 0), 0.5))
    clear = np.stack(seen)
    count = clear.sum(axis=0)
    straight = median(np.stack(stack), clear)
    assert (composite.observations.values[inside] == count[inside]).all()
    assert (composite.bands.values[:, inside] == straight[:, inside]).all()
    assert set(np.unique(composite.reason.values[inside]).tolist()) <= {0, 2, 3}


@dataclass(frozen=True)
class Size:
    """An area where both tiles overlap, in degrees, and sides of tiles in px."""

    bbox: tuple[float, float, float, float]
    tile: int
    other: int
    inside: int  # px at least


SMALL = Size((15.63, 45.962, 15.77, 46.038), 200, 100, 4_000)
LARGE = Size((15.5, 45.85, 15.85, 46.15), 400, 200, 50_000)


@dataclass
class Both:
    """Composites of both tiles together, made when they are asked for."""

    data: Path
    folder: Path
    size: Size
    made: dict[tuple[str, int, bool], xr.Dataset] = field(default_factory=dict)

    def recipe(self, crs: str, tile: int, keep: bool) -> dict[str, Any]:
        folder = self.folder / f"{crs[5:]}-{tile}-{keep}"
        folder.mkdir(exist_ok=True)
        wanted = recipe(self.data, folder, crs=crs, tile=tile, chunk=self.size.other)
        wanted["area"] = {"bbox": list(self.size.bbox)}
        wanted["imagery"]["bands"] = SOME
        wanted["cube"] = {"keep_scenes": keep}
        return wanted

    def composite(self, crs: str, tile: int, keep: bool = True) -> xr.Dataset:
        if (crs, tile, keep) not in self.made:
            wanted = self.recipe(crs, tile, keep)
            assert run(wanted, until="composite").failed == ()
            tree = open_store(wanted["store"], decode=False)
            self.made[crs, tile, keep] = tree["composite"].to_dataset().load()
        return self.made[crs, tile, keep]


@pytest.fixture(
    scope="module",
    params=[SMALL, pytest.param(LARGE, marks=pytest.mark.soak)],
    ids=["small", "large"],
)
def both(
    request: pytest.FixtureRequest, data: Path, tmp_path_factory: pytest.TempPathFactory
) -> Both:
    return Both(data, tmp_path_factory.mktemp("both"), request.param)


def test_the_composite_does_not_depend_on_the_layout(both: Both) -> None:
    size = both.size
    large, small = (both.composite("EPSG:3035", tile) for tile in (size.tile, size.other))
    large, small = xr.align(large, small, join="inner")
    assert large.sizes["x"] >= size.other
    # 255: a tile in which nothing lies inside
    inside, again = (~np.isin(each.reason.values, (1, 255)) for each in (large, small))
    assert (inside == again).all()
    assert inside.sum() > size.inside
    for name in ("bands", "observations", "reason"):
        assert (large[name].values == small[name].values)[..., inside].all()


@pytest.mark.parametrize("crs", ["EPSG:3035", pytest.param("EPSG:32633", marks=pytest.mark.soak)])
def test_both_tiles_together_are_exact_where_all_days_are_clear(
    data: Path, both: Both, crs: str
) -> None:
    """Within 4 DN of exact pyproj + numpy bilinear; each day counted once in the overlap."""
    found = both.composite(crs, both.size.tile)
    assert found.observations.values.max() == 5  # ten items, five days
    px, py = of_scenes(*np.meshgrid(found.x.values, found.y.values), crs)
    clear = found.observations.values == 5
    days: dict[object, list[Any]] = {}
    for item in sorted(items(data), key=lambda item: item.id):
        days.setdefault(item.solar_day, []).append(item)
    assert len(days) == 5
    compared = 0
    for position, name in enumerate(SOME):
        planes, sure = [], clear.copy()
        for pair in days.values():
            exact = [bilinear(item, name, px, py) for item in pair]
            # where both tiles have data the first wins; its edge, where one of the four pixels
            # is missing, is left to the reader's own rule
            near = [np.isfinite(plane) for plane in exact]
            planes.append(np.where(near[0], exact[0], exact[1]))
            sure &= near[0] | (near[1] & ~_touched(pair[0], px, py))
        straight = np.median(np.stack(planes)[:, sure], axis=0) + 1000
        off = np.abs(found.bands.values[position][sure] - straight)
        compared += int(sure.sum())
        assert off.max() <= 4, (name, off.max(), off.mean())
    assert compared > len(SOME) * 2_000


def _touched(item: Any, px: np.ndarray, py: np.ndarray) -> np.ndarray:
    """Where the file's frame (with a pixel around it) reaches."""
    west, north = CORNER[item.tile]
    side = SIDE * 120 + 120
    return (px > west - 120) & (px < west + side) & (py < north + 120) & (py > north - side)


def test_composites_without_stored_scenes_are_the_same(both: Both) -> None:
    found, stored = (both.composite("EPSG:3035", both.size.tile, keep) for keep in (False, True))
    assert found.equals(stored)
    assert plan(both.recipe("EPSG:3035", both.size.tile, False)).stages[0].fresh > 0
