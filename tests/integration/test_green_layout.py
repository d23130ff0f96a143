"""The shipped network over a country of nine large tiles: one map, however it is cut and run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import shapely
from rasterio.windows import from_bounds
from test_green_map import write_polygons

import engine
from engine.legend import Reason
from engine.pipeline.status import read_status
from engine.synthetic.districts import World
from engine.synthetic.photo import write_photos
from engine.synthetic.scene import CRS

pytestmark = pytest.mark.slow

WEST, SOUTH = 400_000, 5_200_000  # multiples of 4000: nine whole tiles of it
WORLD, SIDE = World(11), 12_000
EAST, NORTH = WEST + SIDE, SOUTH + SIDE
TOWNS = [  # where four large tiles meet, in the middle of one, a ring across a border, at an edge
    shapely.Point(WEST + 4000, SOUTH + 8000).buffer(330, 64),
    shapely.box(WEST + 6100.5, SOUTH + 6200.5, WEST + 6500, SOUTH + 6450),
    shapely.Point(WEST + 8010, SOUTH + 2500).buffer(300)
    - shapely.Point(WEST + 7950, SOUTH + 2450).buffer(150),
    shapely.Point(EAST, NORTH - 600).buffer(250, 64),
]  # fmt: skip
LAYERS = ("", "-probability", "-reason", "-green-fraction-100m")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Orthophotos of the towns alone, of which one cannot be used."""
    folder = tmp_path_factory.mktemp("layout")
    for town in TOWNS:
        left, bottom, right, top = (1000 * round(v / 1000) for v in town.buffer(700).bounds)
        write_photos(WORLD, (left, bottom, right, top), folder / "photos", [])
    catalog = json.loads((folder / "photos" / "catalog.json").read_text())
    items = [p.name for p in sorted((folder / "photos").glob("photo_*.json"))]
    kept = [link for link in catalog["links"] if link["rel"] != "item"]
    catalog["links"] = kept + [{"rel": "item", "href": f"./{name}"} for name in items]
    (folder / "photos" / "catalog.json").write_text(json.dumps(catalog))
    deep = folder / "photos" / f"photo_{(WEST + 6000) // 1000}_{(SOUTH + 7000) // 1000}.tif"
    with rasterio.open(deep) as file:
        values, form = file.read(), {**file.profile, "dtype": "uint16", "compress": "deflate"}
    form.pop("photometric", None)
    with rasterio.open(deep, "w", **form) as file:
        file.write(values.astype(np.uint16) * 8)
    write_polygons(folder / "towns.geojson", TOWNS)
    write_polygons(folder / "area.geojson", [shapely.box(WEST, SOUTH, EAST, NORTH)])
    return folder


def product(place: Path, name: str, workers: int, tile: int) -> Path:
    recipe: dict[str, Any] = {
        "name": name,
        "product": "ugs",
        "area": {"file": str(place / "area.geojson")},
        "grid": {"crs": CRS, "tile": tile},
        "images": {"catalog": str(place / "photos" / "catalog.json")},
        "model": {"card": "ugs-made-up"},
        "mask": {"boundaries": str(place / "towns.geojson")},
        "store": str(place / name),
        "publish": str(place / f"{name}-product"),
    }
    assert not engine.run(recipe, workers=workers).failed
    return Path(engine.publish(recipe))


def layers(folder: Path) -> list[np.ndarray]:
    found = []
    for suffix in LAYERS:
        with rasterio.open(folder / f"{folder.name.removesuffix('-product')}{suffix}.tif") as file:
            here = from_bounds(WEST, SOUTH, EAST, NORTH, file.transform)  # degrees are no squares
            found.append(file.read(1, window=here))
    return found


@pytest.fixture(scope="module")
def alone(place: Path) -> list[np.ndarray]:
    """One worker, small tiles, in the order that is usual."""
    return layers(product(place, "alone", 1, 1000))


def test_a_frame_of_16_bits_is_a_reason_in_the_map(alone: list[np.ndarray], place: Path) -> None:
    green, _, reason, _ = alone
    town = np.s_[SIDE - 6440 : SIDE - 6210, 6110:6490]
    assert (green[town] == 255).all()
    assert (reason[town] == Reason.READ_FAILED).all()
    assert set(np.unique(green)) == {0, 1, 255}
    assert "uint16" in json.dumps(read_status(place / "alone")["notes"])


@pytest.mark.parametrize(
    ("name", "workers", "tile"), [("small", 2, 1000), ("wide", 1, 2000), ("whole", 2, 4000)]
)
def test_the_map_of_nine_tiles_is_that_of_any_other(
    place: Path,
    alone: list[np.ndarray],
    name: str,
    workers: int,
    tile: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def shuffled(rows: np.ndarray, cols: np.ndarray) -> np.ndarray:
        return np.random.default_rng(workers).permutation(rows.size).reshape(rows.shape)

    monkeypatch.setattr("engine.runs.schedule.curve_order", shuffled)
    found = layers(product(place, name, workers, tile))
    assert (found[0] != 255).sum() > 500_000
    for mine, other in zip(found, alone, strict=True):
        np.testing.assert_array_equal(mine, other)
