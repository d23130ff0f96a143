"""Layout invariance of the real product: what the tiles are must not show in the map.

The country is an arc, so that it crosses edges of tiles at every angle: seven kilometres long for
tiles of 1.6 and 4.8 km, and forty for tiles of 8, 16 and 32 km.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine
from pyproj import Transformer
from support import shared
from support.straight import berlin

from engine.models.import_sen2lcz import import_sen2lcz
from engine.pipeline.publish import publish
from engine.pipeline.verbs import run
from engine.store.view import open_store

WEST, NORTH = 400_000.0, 5_240_000.0
BANDS = ["B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12"]  # of the card
COARSE = {"B05", "B06", "B07", "B8A", "B11", "B12", "SCL"}

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Size:
    """How much is mapped, and the layout that others are compared with."""

    side: int  # of the scenes, px of 10 m
    width: float  # of the arc
    tile: int
    chunk: int
    cells: int  # that are mapped at least

    def arc(self, first: float, last: float, width: float) -> Any:
        """A piece of a ring about the south-western corner, by degrees from east."""
        turn = np.radians(np.linspace(first, last, 200))
        line = np.column_stack([np.cos(turn), np.sin(turn)]) * 7.75 * self.side
        line += (WEST, NORTH - 10 * self.side)
        return shapely.LineString(line).buffer(width / 2)


LITTLE = Size(640, 400.0, 480, 160, 80)
WHOLE = Size(4000, 500.0, 3200, 400, 500)


def geographic(shape: Any) -> Any:
    move = Transformer.from_crs("EPSG:32633", "EPSG:4326", always_xy=True)
    return shapely.transform(shape, lambda xy: np.column_stack(move.transform(*xy.T)))


def write_scene(folder: Path, image: np.ndarray, day: int, side: int) -> str:
    """Berlin, mirrored over and over, under other clouds each day."""
    rng = np.random.default_rng(day)
    name = f"S2A_33TVN_202305{day:02d}_0_L2A"
    scl = np.full((side // 2, side // 2), 4, np.uint8)
    yy, xx = np.ogrid[: side // 2, : side // 2]
    for _ in range(max(round(60 * (side / 4000) ** 2), 8)):
        y, x, r = *rng.integers(0, side // 2, 2).tolist(), int(rng.integers(5, 60))
        scl[(yy - y) ** 2 + (xx - x) ** 2 < r * r] = 9
    assets = {}
    for key, values in {**dict(zip(BANDS, image, strict=True)), "SCL": scl}.items():
        pixel = 20 if key in COARSE else 10
        if key != "SCL":
            whole = np.block([[values, values[:, ::-1]], [values[::-1], values[::-1, ::-1]]])
            times = -(-side // whole.shape[0])
            values = np.tile(whole, (times, times))[:side, :side]
            values = values[:: pixel // 10, :: pixel // 10]
            values = np.clip(values * 1e4 + rng.integers(-80, 80, values.shape), 1, 2e4)
        path = folder / f"{name}_{key}.tif"
        with rasterio.open(
            path,
            "w",
            driver="GTiff",
            width=values.shape[1],
            height=values.shape[0],
            count=1,
            dtype="uint8" if key == "SCL" else "uint16",
            crs="EPSG:32633",
            transform=Affine(pixel, 0, WEST, 0, -pixel, NORTH),
            nodata=0,
            tiled=True,
            blockxsize=512,
            blockysize=512,
        ) as file:
            file.write(values.astype(file.dtypes[0]), 1)
        assets[key] = {"href": f"./{path.name}"}
    box = geographic(shapely.box(WEST, NORTH - side * 10, WEST + side * 10, NORTH))
    item = {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": name,
        "bbox": list(box.bounds),
        "geometry": json.loads(shapely.to_geojson(box)),
        "properties": {
            "datetime": f"2023-05-{day:02d}T10:00:00Z",
            "s2:processing_baseline": "05.09",
            "earthsearch:boa_offset_applied": True,
        },
        "links": [],
        "assets": assets,
    }
    (folder / f"{name}.json").write_text(json.dumps(item))
    return f"./{name}.json"


Place = tuple[Path, dict[str, Any], Size]


@pytest.fixture(scope="module")
def country(
    request: pytest.FixtureRequest, data: Path, tmp_path_factory: pytest.TempPathFactory
) -> Place:
    size: Size = request.param
    folder = tmp_path_factory.mktemp("layout")
    image = berlin(data)
    links = [
        {"rel": "item", "href": write_scene(folder, image, day, size.side)} for day in (3, 13, 23)
    ]
    catalog = {"type": "Catalog", "id": "x", "links": links}
    (folder / "catalog.json").write_text(json.dumps(catalog))
    import_sen2lcz(data / "weights" / "sen2lcz_so2sat.hdf5", folder / "sen2lcz")
    (folder / "area.geojson").write_text(
        shapely.to_geojson(geographic(size.arc(5, 85, size.width)))
    )
    islands = [
        size.arc(a, a + 5, 900).difference(size.arc(a + 2, a + 3, 250)) for a in range(5, 80, 8)
    ]
    (folder / "urban.geojson").write_text(
        shapely.to_geojson(geographic(shapely.unary_union(islands)))
    )
    recipe = {
        "name": "arc",
        "product": "lcz",
        "area": {"file": "area.geojson"},
        "imagery": {"catalog": "catalog.json", "period": "2023-05-01/2023-05-31"},
        "model": {"card": "sen2lcz"},
        "mask": {"boundaries": "urban.geojson"},
    }
    return folder, recipe, size


def make(country: Place, tile: int, workers: int) -> Any:
    """Scores as stored, and all rasters as published: those are cut to the area."""
    folder, recipe, size = country
    grid = {"crs": "EPSG:32633", "resolution": 10, "tile": tile, "chunk": size.chunk}
    name = f"{tile}-{workers}"
    recipe = {**recipe, "grid": grid, "store": f"store-{name}", "publish": f"product-{name}"}
    how = {"workers": 1} if workers == 1 else {"cluster": shared.workers()}  # those are two
    assert run(recipe, base=folder, **how).failed == ()
    product = {}
    for path in publish(recipe, base=folder).rglob("*.tif"):
        with rasterio.open(path) as file:
            product[path.name] = file.read(), file.transform
    return open_store(folder / recipe["store"])["scores"]["probability"].load(), product


@pytest.fixture(scope="module")
def first(country: Place) -> Any:
    size = country[2]
    scores, product = make(country, size.tile, 1)
    # there is something to get wrong: classes, masked islands, cells with fewer observations
    (classes,) = product["arc.tif"][0]
    (reason,) = product["arc-reason.tif"][0]
    assert len(np.unique(classes)) > 5
    assert (classes > 0).sum() > size.cells
    assert {0, 1, 5} <= set(np.unique(reason).tolist())
    assert len(np.unique(product["arc-observations.tif"][0])) > 2
    return scores, product


@pytest.mark.parametrize(
    ("country", "tile", "workers"),
    [
        (LITTLE, 160, 2),
        *(
            pytest.param(WHOLE, tile, workers, marks=pytest.mark.soak)
            for tile, workers in ((1600, 2), (800, 2), (800, 1))
        ),
    ],
    indirect=["country"],
    ids=lambda value: f"{value.side / 100:g}km" if isinstance(value, Size) else None,
)
def test_scores_and_maps_do_not_depend_on_the_layout(
    country: Place,
    first: Any,
    tile: int,
    workers: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def shuffled(rows: np.ndarray, cols: np.ndarray) -> np.ndarray:
        order = list(range(rows.size))
        random.Random(tile * workers).shuffle(order)
        return np.array(order).reshape(rows.shape)

    monkeypatch.setattr("engine.runs.schedule.curve_order", shuffled)
    scores, product = first
    found, published = make(country, tile, workers)
    assert published.keys() == product.keys()
    for name, (pixels, transform) in product.items():
        assert published[name][1] == transform
        assert (published[name][0] == pixels).all(), name
    # grids end where their tiles do: compare where both are; beyond, neither has any score
    both = {
        "x": np.intersect1d(scores.x, found.x),
        "y": np.intersect1d(scores.y, found.y)[::-1],
    }
    assert scores.sel(both).equals(found.sel(both))
    for each in (scores, found):
        assert np.isfinite(each).sum() == np.isfinite(each.sel(both)).sum()
