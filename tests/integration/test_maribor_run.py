"""`run --until composite` on the real static catalogue, against independent computations."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from pyproj import Transformer
from support.maribor import BANDS, CORNER, SIDE, bilinear, catalogue, items, pixels, usable
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
        "grid": {"crs": "EPSG:32633", "resolution": 120, "tile": 305, "chunk": 305, **grid},
        "imagery": {
            "catalog": str(catalogue(data, folder, *tiles)),
            "period": "2023-08-01/2023-08-31",
            "bands": NAMES,
        },
        "store": str(folder / "store"),
    }


@pytest.mark.parametrize("tile", ["33TWM", "33TWL"])
def test_one_mgrs_tile_on_its_own_lattice(data: Path, tmp_path: Path, tile: str) -> None:
    """Scenes, composite and observations equal numpy, pixel for pixel; the offset added once."""
    west, north = CORNER[tile]
    wanted = recipe(data, tmp_path, tile, origin=[west, north])
    to_degrees = Transformer.from_crs("EPSG:32633", "EPSG:4326", always_xy=True)
    x, y = np.array([40e3, 70e3]) + west, north - np.array([70e3, 40e3])
    lon, lat = to_degrees.transform(x, y)
    wanted["area"] = {"bbox": [lon.min() - 0.6, lat.min() - 0.6, lon.max() + 0.6, lat.max() + 0.6]}
    summary = run(wanted, until="composite")
    assert summary.failed == ()
    tree = open_store(wanted["store"], decode=False)
    found = items(data, tile)
    assert len(found) == 5
    cut = {"x": slice(west, west + 109_800), "y": slice(north, north - 109_800)}
    scenes, composite = (
        tree["scenes"].to_dataset().sel(cut),
        tree["composite"].to_dataset().sel(cut),
    )
    inside = composite.reason.values != 1  # the area is smaller than the MGRS tile's frame
    assert inside.shape == (SIDE, SIDE)
    assert inside.mean() > 0.9
    stack, seen = [], []
    for item in found:
        raw = np.stack([pixels(item, name) for name in NAMES])
        scl = pixels(item, SCL)
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
    values = np.where(clear[:, None], np.stack(stack), np.nan)
    straight = np.zeros((len(NAMES), SIDE, SIDE))
    straight[:, count > 0] = np.rint(np.nanmedian(values[:, :, count > 0], axis=0))
    assert (composite.observations.values[inside] == count[inside]).all()
    assert (composite.bands.values[:, inside] == straight[:, inside]).all()
    assert set(np.unique(composite.reason.values[inside]).tolist()) <= {0, 2, 3}


@pytest.fixture(scope="module")
def composites(
    data: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[tuple[str, int], xr.Dataset]]:
    """Both tiles together, in two CRSs and two layouts."""
    made = {}
    for crs, tile in [("EPSG:32633", 400), ("EPSG:3035", 400), ("EPSG:3035", 200)]:
        folder = tmp_path_factory.mktemp("both")
        wanted = recipe(data, folder, crs=crs, tile=tile, chunk=200)
        wanted["area"] = {"bbox": [15.5, 45.85, 15.85, 46.15]}
        assert run(wanted, until="composite").failed == ()
        made[crs, tile] = open_store(wanted["store"], decode=False)["composite"].to_dataset().load()
    return made


def test_the_composite_does_not_depend_on_the_layout(
    composites: dict[tuple[str, int], xr.Dataset],
) -> None:
    large, small = composites["EPSG:3035", 400], composites["EPSG:3035", 200]
    large, small = xr.align(large, small, join="inner")
    assert large.sizes["x"] >= 200
    inside = large.reason.values != 1
    assert (inside == (small.reason.values != 1)).all()
    assert inside.sum() > 50_000
    for name in ("bands", "observations", "reason"):
        assert (large[name].values == small[name].values)[..., inside].all()


@pytest.mark.parametrize("crs", ["EPSG:32633", "EPSG:3035"])
def test_both_tiles_together_are_exact_where_all_days_are_clear(
    data: Path, composites: dict[tuple[str, int], xr.Dataset], crs: str
) -> None:
    """Within 4 DN of exact pyproj + numpy bilinear; each day counted once in the overlap."""
    found = composites[crs, 400]
    assert found.observations.values.max() == 5  # ten items, five days
    xx, yy = np.meshgrid(found.x.values, found.y.values)
    clear = found.observations.values == 5
    days: dict[object, list[Any]] = {}
    for item in sorted(items(data), key=lambda item: item.id):
        days.setdefault(item.solar_day, []).append(item)
    assert len(days) == 5
    compared = 0
    for position, name in enumerate(NAMES):
        planes, sure = [], clear.copy()
        for pair in days.values():
            exact = [bilinear(item, name, xx, yy, crs) for item in pair]
            # where both tiles have data the first wins; its edge, where one of the four pixels
            # is missing, is left to the reader's own rule
            near = [np.isfinite(plane) for plane in exact]
            planes.append(np.where(near[0], exact[0], exact[1]))
            sure &= near[0] | (near[1] & ~_touched(pair[0], xx, yy, crs))
        straight = np.median(np.stack(planes)[:, sure], axis=0) + 1000
        off = np.abs(found.bands.values[position][sure] - straight)
        compared += int(sure.sum())
        assert off.max() <= 4, (name, off.max(), off.mean())
    assert compared > 4 * 2_000


def _touched(item: Any, xx: np.ndarray, yy: np.ndarray, crs: str) -> np.ndarray:
    """Where the file's frame (with a pixel around it) reaches."""
    px, py = Transformer.from_crs(crs, "EPSG:32633", always_xy=True).transform(xx, yy)
    west, north = CORNER[item.tile]
    side = SIDE * 120 + 120
    return (px > west - 120) & (px < west + side) & (py < north + 120) & (py > north - side)


def test_composites_without_stored_scenes_are_the_same(
    data: Path, tmp_path: Path, composites: dict[tuple[str, int], xr.Dataset]
) -> None:
    wanted = recipe(data, tmp_path, crs="EPSG:3035", tile=400, chunk=200)
    wanted["area"] = {"bbox": [15.5, 45.85, 15.85, 46.15]}
    wanted["cube"] = {"keep_scenes": False}
    assert run(wanted, until="composite").failed == ()
    found = open_store(wanted["store"], decode=False)["composite"].to_dataset().load()
    assert found.equals(composites["EPSG:3035", 400])
    assert plan(wanted).stages[0].fresh > 0
