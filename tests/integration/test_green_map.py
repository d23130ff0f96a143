"""Urban green space at 1 m: the map against numpy written straight, in every layout."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import shapely
import torch
from affine import Affine
from PIL import Image
from pyproj import Transformer
from support.cards import RGB, write_segmenter
from support.shared import run
from support.worlds import PLAIN, photograph

import engine
from engine.compare.crosstab import beside
from engine.errors import CardError, MetricError, RecipeError
from engine.legend import Reason
from engine.models.registry import load_model
from engine.synthetic.country import Country
from engine.synthetic.scene import CRS

pytestmark = pytest.mark.slow

COUNTRY = Country(PLAIN.world, 1600, 1600)
WEST, SOUTH, EAST, NORTH = COUNTRY.bounds
LONG, MORE = 1600, 500  # metres of its side, and about it
SIDE, OVERLAP = 128, 32
TOWNS = [  # one curved, one with a hole, one across the country's edge
    shapely.Point(WEST + 500, SOUTH + 600).buffer(400, 64),
    shapely.Point(WEST + 1100, NORTH - 350).buffer(200)
    - shapely.Point(WEST + 1130, NORTH - 350).buffer(80),
    shapely.box(EAST - 90.3, SOUTH + 400.7, EAST + 500, SOUTH + 700),
]
AREA = shapely.box(WEST, SOUTH, EAST, NORTH) - shapely.Point(WEST + 100, SOUTH).buffer(400, 64)


def write_polygons(path: Path, shapes: list[Any]) -> str:
    move = Transformer.from_crs(CRS, "EPSG:4326", always_xy=True)
    moved = [
        shapely.transform(s, lambda xy: np.column_stack(move.transform(*xy.T))) for s in shapes
    ]
    features = [
        {"type": "Feature", "properties": {}, "geometry": json.loads(shapely.to_geojson(s))}
        for s in moved
    ]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path.name


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Orthophotos, polygons, a network of random weights."""
    folder = tmp_path_factory.mktemp("green")
    photograph(COUNTRY.world, COUNTRY.bounds, folder / "photos")
    (folder / "photos" / f"photo_{(WEST + 1000) // 1000}_{NORTH // 1000}.json").unlink()
    catalog = json.loads((folder / "photos" / "catalog.json").read_text())
    catalog["links"] = [
        link for link in catalog["links"] if (folder / "photos" / link["href"]).exists()
    ]
    (folder / "photos" / "catalog.json").write_text(json.dumps(catalog))
    write_polygons(folder / "towns.geojson", TOWNS)
    write_polygons(folder / "area.geojson", [AREA])
    write_segmenter(folder / "net", patch=SIDE, overlap=OVERLAP)
    return folder


def recipe(place: Path, name: str = "green", **grid: Any) -> dict[str, Any]:
    return {
        "name": name,
        "product": "ugs",
        "area": {"file": str(place / "area.geojson")},
        "grid": {"crs": CRS, "tile": 500, **grid},
        "images": {"catalog": str(place / "photos" / "catalog.json")},
        "model": {"card": str(place / "net")},
        "mask": {"boundaries": str(place / "towns.geojson")},
        "store": str(place / name),
        "publish": str(place / f"{name}-product"),
    }


@pytest.fixture(scope="module")
def product(place: Path) -> Path:
    assert not run(recipe(place)).failed
    return Path(engine.publish(recipe(place)))


def layer(product: Path, suffix: str = "") -> np.ndarray:
    name = product.name.removesuffix("-product")
    with rasterio.open(product / f"{name}{suffix}.tif") as file:
        found: np.ndarray = file.read(1)
        assert tuple(file.bounds) == COUNTRY.bounds
        return found


@cache
def ground(place: Path) -> tuple[np.ndarray, np.ndarray]:
    """All photos with numpy alone, half a kilometre more each side: the first by name wins."""
    side = LONG + 2 * MORE
    rgb, empty = np.zeros((3, side, side), np.uint8), np.ones((side, side), bool)
    for path in sorted((place / "photos").glob("photo_*.json")):
        with rasterio.open(path.with_suffix(".tif")) as file:
            row, col = round(NORTH + MORE - file.bounds.top), round(file.bounds.left - WEST + MORE)
            here = np.s_[row : row + file.height, col : col + file.width]
            takes = empty[here].copy()
            rgb[:, *here][:, takes] = file.read([1, 2, 3])[:, takes]
        empty[here] = False
    return rgb, ~empty


def test_zones_beside_green_are_those_of_cells_by_hand(place: Path, product: Path) -> None:
    # a map of zones on another grid: UTM, its cells turned against the green map's
    zones = place / "zones"
    zones.mkdir(exist_ok=True)
    move = Transformer.from_crs(CRS, "EPSG:32633", always_xy=True)
    x, y = move.transform((WEST + EAST) / 2, (SOUTH + NORTH) / 2)
    left, top = 100 * round(x / 100) - 2500, 100 * round(y / 100) + 2500
    codes = np.random.default_rng(0).integers(0, 18, (50, 50)).astype("uint8")
    form = {"driver": "GTiff", "count": 1, "dtype": "uint8", "height": 50, "width": 50}
    at = Affine(100, 0, left, 0, -100, top)
    with rasterio.open(zones / "z.tif", "w", crs="EPSG:32633", transform=at, **form) as file:
        file.write(codes, 1)
    (zones / "report.json").write_text('{"name": "z", "recipe": {"product": "lcz"}}')
    shares = layer(product, "-green-fraction-100m")
    known: dict[int, list[int]] = {}
    for row, col in np.argwhere(shares != 255):
        x, y = move.transform(WEST + 100 * col + 50, NORTH - 100 * row - 50)
        code = codes[int((top - y) // 100), int((x - left) // 100)]
        known.setdefault(int(code), []).append(int(shares[row, col]))
    known.pop(0, None)
    found = beside(zones, product, out=place / "beside")
    assert [zone.code for zone in found.zones] == sorted(known)
    for zone in found.zones:
        assert zone.square_km == pytest.approx(len(known[zone.code]) / 100)
        assert zone.percent == pytest.approx(np.mean(known[zone.code]))
    rows = (place / "beside" / "green-by-zone.csv").read_text().splitlines()
    assert len(rows) == 1 + len(known)
    with Image.open(place / "beside" / "beside.png") as picture:
        assert picture.size[0] > 1500
    with pytest.raises(MetricError, match="second map is not a product of green space"):
        beside(zones, zones)
    with pytest.raises(MetricError, match="first map is not a product of local climate zones"):
        beside(product, product)
    with rasterio.open(zones / "z.tif", "r+") as file:
        file.transform = Affine(100, 0, left + 90_000, 0, -100, top)
    with pytest.raises(MetricError, match="no ground in common"):
        beside(zones, product)


def test_the_map_is_that_of_windows_blended_by_hand(place: Path, product: Path) -> None:
    card = engine_card(place)
    network = load_model(card)
    rgb, valid = ground(place)
    x = (rgb.astype(np.float32) / 255 - 0.4) / 0.2
    x[:, ~valid] = 0
    ramp = np.sin(np.pi / 2 * (np.arange(OVERLAP) + 0.5) / OVERLAP) ** 2
    along = np.concatenate([ramp, np.ones(SIDE - 2 * OVERLAP), ramp[::-1]])
    total, weight = np.zeros(valid.shape), np.zeros(valid.shape)
    step = SIDE - OVERLAP
    left, top = WEST - MORE, -(NORTH + MORE)  # in the grid's pixels, whose anchor is 0, 0
    towns = shapely.union_all(TOWNS)
    with torch.inference_mode():
        for row in range(-(-top // step) * step - top, len(valid) - SIDE + 1, step):
            for col in range(-(-left // step) * step - left, len(valid) - SIDE + 1, step):
                x0, y0 = left + col, -(top + row)
                if not towns.intersects(shapely.box(x0, y0 - SIDE, x0 + SIDE, y0)):
                    continue  # nothing of it is mapped
                here = np.s_[row : row + SIDE, col : col + SIDE]
                logits = network(torch.from_numpy(x[None, :, *here].copy()))[0].numpy()
                total[here] += np.outer(along, along) * (logits[1] - logits[0])
                weight[here] += np.outer(along, along)
    inner = np.s_[MORE : MORE + LONG, MORE : MORE + LONG]
    percent = 100 / (1 + np.exp(-total[inner]))
    mine = layer(product, "-probability")
    known = mine != 255
    assert np.allclose(weight[inner][known], 1)
    centres = np.arange(LONG) + 0.5
    xx, yy = WEST + centres[None], NORTH - centres[:, None]
    wanted = shapely.intersects_xy(towns, xx, yy)
    inside = shapely.intersects_xy(AREA, xx, yy)
    # degrees and back move a polygon's edge by millimetres: a few centres change sides
    assert (known != (wanted & inside & valid[inner])).sum() < 20
    off = np.abs(mine[known] - percent[known])
    assert off.max() < 0.51
    reason = layer(product, "-reason")
    assert (reason == np.where(known, 0, reason)).all()
    told = np.where(~inside, 1, np.where(~wanted, 5, 2))
    assert (reason != np.where(known, 0, told)).sum() < 20
    assert (reason == Reason.NO_SCENE).sum() > 10_000  # the frame that was taken away


def test_classes_and_fractions_follow_from_the_probability(product: Path) -> None:
    percent, classes = layer(product, "-probability"), layer(product)
    np.testing.assert_array_equal(classes, np.where(percent == 255, 255, percent >= 50))
    assert set(np.unique(classes)) == {0, 1, 255}
    share = layer(product, "-green-fraction-100m")
    for row, col in np.ndindex(16, 16):
        cell = classes[100 * row : 100 * row + 100, 100 * col : 100 * col + 100]
        known = cell[cell != 255]
        assert share[row, col] == (np.rint(100 * (known == 1).mean()) if len(known) else 255)


def engine_card(place: Path) -> Any:
    from engine.models.card import load_card

    return load_card(place / "net")


def test_only_what_changed_runs_again(place: Path, product: Path) -> None:
    again = engine.plan(recipe(place))
    assert all(not stage.stale for stage in again.stages)
    moved = recipe(place) | {"mask": {"boundaries": str(place / "moved.geojson")}}
    smaller = shapely.box(EAST - 60, SOUTH + 400, EAST, SOUTH + 500)
    write_polygons(place / "moved.geojson", [*TOWNS[:2], smaller])
    stale = {stage.name: stage.stale for stage in engine.plan(moved).stages}
    assert sum(stale["scores"].values()) == 1, stale
    older = recipe(place)
    older["images"] = {**older["images"], "order": ["photo_401_5201"]}
    with pytest.raises(RecipeError, match="frames that are not there"):
        engine.plan(older)


def test_releases_are_compared(place: Path, product: Path, tmp_path: Path) -> None:
    engine.publish(recipe(place), tag="one")
    before = layer(product)
    assert engine.diff(place / "green", "one").changed == 0
    smaller = recipe(place) | {"mask": {"boundaries": str(place / "towns-2.geojson")}}
    write_polygons(place / "towns-2.geojson", TOWNS[:1])
    assert not run(smaller).failed
    found = engine.diff(place / "green", "one", out=tmp_path / "changes")
    gone = sum(cells for old, new, cells in found.largest if new == 0)
    assert gone == found.changed > 0
    assert found.cells.shape == (3, 3)
    assert found.cells[1:].sum() == (before != 255).sum()
    assert (tmp_path / "changes" / "changes.csv").read_text().count("green") == 2
    assert not run(recipe(place)).failed  # as it was
    assert engine.diff(place / "green", "one").changed == 0


def test_what_does_not_fit_is_said_before_work(place: Path, tmp_path: Path) -> None:
    with pytest.raises(
        RecipeError, match="imagery: of product lcz, cover and embedding, not of ugs"
    ):
        engine.plan(
            recipe(place) | {"imagery": {"catalog": "x", "period": "2021-01-01/2021-01-02"}}
        )
    with pytest.raises(RecipeError, match="images: missing"):
        engine.plan({k: v for k, v in recipe(place).items() if k != "images"})
    with pytest.raises(RecipeError, match="multiple of 100 px"):
        engine.plan(recipe(place, tile=1050, chunk=350))
    with pytest.raises(CardError, match="needs a segmenter"):
        engine.plan(recipe(place) | {"model": {"card": "lcz-made-up"}})
    with pytest.raises(CardError, match="made for another resolution"):
        engine.plan(recipe(place, resolution=10, tile=1000))
    write_segmenter(tmp_path / "deep", patch=1024, overlap=0)
    with pytest.raises(RecipeError, match="smaller than the model's window"):
        engine.plan(recipe(place) | {"model": {"card": str(tmp_path / "deep")}})
    assert engine_card(place).bands == RGB
