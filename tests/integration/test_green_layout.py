"""A segmenter's map is one map, however it is cut and run."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import shapely
from rasterio.windows import from_bounds
from shapely.geometry.base import BaseGeometry
from support import shared
from support.cards import write_segmenter
from support.worlds import PLAIN, photograph
from test_green_map import COUNTRY, write_polygons

import engine
from engine.legend import Reason
from engine.pipeline.status import read_status
from engine.synthetic.districts import World
from engine.synthetic.photo import write_photos
from engine.synthetic.scene import CRS

pytestmark = pytest.mark.slow

LAYERS = ("", "-probability", "-reason", "-green-fraction-100m")


@dataclass(frozen=True)
class Case:
    """A square country with towns, of which a frame of 16 bits hides the second.

    Towns lie where four large tiles meet, in the middle of one, as a ring across a border, and at
    the edge.
    """

    west: int
    south: int
    side: int
    tile: int
    origin: tuple[int, int]
    towns: tuple[BaseGeometry, ...]
    hidden: tuple[int, int]  # km of the frame
    known: int  # pixels of the map, at least
    model: str

    @property
    def bounds(self) -> tuple[int, int, int, int]:
        return self.west, self.south, self.west + self.side, self.south + self.side


def small() -> Case:
    """A network of random weights; borders of tiles in odd places."""
    west, south, _, _ = COUNTRY.bounds
    towns = (
        shapely.Point(west + 300, south + 1400).buffer(180, 64),  # about a corner of all tiles
        shapely.box(west + 1200.5, south + 1000.5, west + 1500, south + 1250),
        shapely.Point(west + 900, south + 500).buffer(220)
        - shapely.Point(west + 940, south + 480).buffer(90),
        shapely.Point(west + 1600, south + 300).buffer(150, 64),
    )
    hidden = (west + 1000) // 1000, COUNTRY.bounds[3] // 1000
    return Case(west, south, 1600, 500, (300, 700), towns, hidden, 150_000, "net")


def large() -> Case:
    """The shipped network; nine whole tiles of 4 km."""
    west, south = 400_000, 5_200_000
    towns = (
        shapely.Point(west + 4000, south + 8000).buffer(330, 64),
        shapely.box(west + 6100.5, south + 6200.5, west + 6500, south + 6450),
        shapely.Point(west + 8010, south + 2500).buffer(300)
        - shapely.Point(west + 7950, south + 2450).buffer(150),
        shapely.Point(west + 12_000, south + 11_400).buffer(250, 64),
    )
    hidden = (west + 6000) // 1000, (south + 7000) // 1000
    return Case(west, south, 12_000, 1000, (0, 0), towns, hidden, 500_000, "ugs-made-up")


@pytest.fixture(
    scope="module",
    params=[small, pytest.param(large, marks=pytest.mark.soak)],
    ids=["small", "large"],
)
def case(request: pytest.FixtureRequest) -> Case:
    make: Callable[[], Case] = request.param
    return make()


@pytest.fixture(scope="module")
def place(case: Case, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Orthophotos, of which one cannot be used; of a large country those of its towns alone."""
    folder = tmp_path_factory.mktemp("layout")
    photos = folder / "photos"
    if case.bounds == COUNTRY.bounds:
        photograph(PLAIN.world, case.bounds, photos)
    else:
        for town in case.towns:
            left, bottom, right, top = (1000 * round(v / 1000) for v in town.buffer(700).bounds)
            write_photos(World(11), (left, bottom, right, top), photos, [])
        catalog = json.loads((photos / "catalog.json").read_text())
        items = [p.name for p in sorted(photos.glob("photo_*.json"))]
        kept = [link for link in catalog["links"] if link["rel"] != "item"]
        catalog["links"] = kept + [{"rel": "item", "href": f"./{name}"} for name in items]
        (photos / "catalog.json").write_text(json.dumps(catalog))
    deep = photos / "photo_{}_{}.tif".format(*case.hidden)
    with rasterio.open(deep) as file:
        values, form = file.read(), {**file.profile, "dtype": "uint16", "compress": "deflate"}
    form.pop("photometric", None)
    with rasterio.open(deep, "w", **form) as file:
        file.write(values.astype(np.uint16) * 8)
    write_polygons(folder / "towns.geojson", [*case.towns])
    write_polygons(folder / "area.geojson", [shapely.box(*case.bounds)])
    write_segmenter(folder / "net")
    return folder


def product(
    place: Path,
    case: Case,
    name: str,
    run: Callable[..., Any] = shared.run,
    times: int = 1,
    *,
    keep: bool = False,
) -> Path:
    """The country mapped on tiles so many times as large; two workers do it."""
    recipe: dict[str, Any] = {
        "name": name,
        "product": "ugs",
        "area": {"file": "area.geojson"},
        "grid": {"crs": CRS, "tile": times * case.tile, "origin": list(case.origin)},
        "images": {"catalog": "photos/catalog.json", "keep": keep},
        "model": {"card": case.model if case.model != "net" else "./net"},
        "mask": {"boundaries": "towns.geojson"},
        "store": name,
        "publish": f"{name}-product",
    }
    assert not run(recipe, base=place).failed
    return Path(engine.publish(recipe, base=place))


def layers(folder: Path, case: Case) -> list[np.ndarray]:
    found = []
    for suffix in LAYERS:
        with rasterio.open(folder / f"{folder.name.removesuffix('-product')}{suffix}.tif") as file:
            here = from_bounds(*case.bounds, file.transform)  # degrees are no squares
            found.append(file.read(1, window=here))
    return found


@pytest.fixture(scope="module")
def alone(place: Path, case: Case) -> list[np.ndarray]:
    """One worker, small tiles, in the order that is usual."""

    def run(recipe: dict[str, Any], base: Path) -> Any:
        return engine.run(recipe, base=base, workers=1)

    return layers(product(place, case, "alone", run), case)


def test_a_frame_of_16_bits_is_a_reason_in_the_map(
    alone: list[np.ndarray], case: Case, place: Path
) -> None:
    green, _, reason, _ = alone
    left, bottom, right, top = (round(v) for v in case.towns[1].buffer(-10).bounds)
    north = case.south + case.side
    town = np.s_[north - top : north - bottom, left - case.west : right - case.west]
    assert (green[town] == 255).all()
    assert (reason[town] == Reason.READ_FAILED).all()
    assert set(np.unique(green)) == {0, 1, 255}
    assert "uint16" in json.dumps(read_status(place / "alone")["notes"])


@pytest.mark.parametrize(
    ("name", "times", "keep"),
    [("wide", 2, True), pytest.param("whole", 4, False, marks=pytest.mark.soak)],
)
def test_the_map_is_that_of_any_other_tiles(
    place: Path,
    case: Case,
    alone: list[np.ndarray],
    name: str,
    times: int,
    keep: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two workers, larger tiles in any order, images kept in the store or not."""

    def shuffled(rows: np.ndarray, cols: np.ndarray) -> np.ndarray:
        return np.random.default_rng(times).permutation(rows.size).reshape(rows.shape)

    monkeypatch.setattr("engine.runs.schedule.curve_order", shuffled)
    found = layers(product(place, case, name, times=times, keep=keep), case)
    assert (found[0] != 255).sum() > case.known
    for mine, other in zip(found, alone, strict=True):
        np.testing.assert_array_equal(mine, other)
