"""What a plan says of frames: an order without effect, pixels too coarse for 1 m."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from pyproj import Transformer
from shapely.geometry import box, mapping
from support.cards import write_segmenter

import engine
from engine.catalog.ingest import ingest
from engine.grid.grid import Grid
from engine.items import Asset, Item
from engine.products.index import ItemIndex
from engine.products.sources import doubts_of
from engine.recipes.sections import Images

CRS = "EPSG:32633"
LEFT, TOP, SIDE = 500_000.0, 5_000_000.0, 400  # on the zone's meridian, at 45.15 degrees north
EAST, NORTH = 78_640.0, 111_130.0  # metres of a degree there, of a table
GRID = Grid.fit((LEFT, TOP - 1000, LEFT + 1000, TOP), crs=CRS, tile_size=1000.0)


def frame(crs: str = CRS, x: float = 1.0, y: float = 1.0, **more: Any) -> Item:
    """A frame of an item alone, with pixels of x by y in its own CRS."""
    left, top = Transformer.from_crs(CRS, crs, always_xy=True).transform(LEFT, TOP)
    asset = Asset("a.tif", crs=crs, transform=(x, 0, left, 0, -y, top), shape=(SIDE, SIDE))
    return Item(
        id="a",
        collection="photos",
        source="own",
        datetime=datetime(2021, 7, 9, tzinfo=UTC),
        bbox=(14.9, 45.0, 15.1, 45.3),
        geometry=mapping(box(14.9, 45.0, 15.1, 45.3)),
        centroid_lon=15.0,
        stamp="a",
        assets={"B04": asset},
        **more,
    )


@pytest.mark.parametrize(
    ("item", "side"),
    [
        (frame(), 1.0),
        (frame(x=10.0, y=10.0), 10.0),
        (frame("EPSG:4326", 10 / EAST, 10 / NORTH), 10.0),
        (frame("EPSG:3857", 10.0, 10.0), 10 * np.cos(np.radians(45.15))),
    ],
)
def test_pixels_are_measured_on_the_ground(item: Item, side: float) -> None:
    assert ItemIndex([item], ("B04",), GRID).sides == [pytest.approx(side, rel=0.01)]


def test_frames_that_do_not_say_are_not_judged() -> None:
    item = frame(x=10.0, y=10.0)
    silent = replace(item, assets={"B04": replace(item.assets["B04"], transform=None)})
    index = ItemIndex([silent], ("B04",), GRID)
    assert index.sides == [None]
    assert doubts_of(Images(catalog="x"), index) == []


@pytest.mark.parametrize(
    ("order", "aside", "count"),
    [("nadir", None, 1), ("nadir", 3.0, 0), ("newest", None, 0), (("a",), None, 0)],
)
def test_an_order_without_effect_is_said(order: Any, aside: float | None, count: int) -> None:
    frames = [frame(), frame(off_nadir=aside)]
    notes = doubts_of(Images(catalog="x", order=order), ItemIndex(frames, ("B04",), GRID))
    assert len(notes) == count
    assert all("view:off_nadir" in note for note in notes)


def test_a_plan_says_what_is_coarse(tmp_path: Path) -> None:
    for name, step in [("fine", 1.0), ("rough", 10.0)]:
        path = tmp_path / "photos" / f"{name}.tif"
        path.parent.mkdir(exist_ok=True)
        form = {"driver": "GTiff", "dtype": "uint8", "count": 3, "photometric": "rgb", "crs": CRS}
        form |= {"height": SIDE, "width": SIDE, "transform": Affine(step, 0, LEFT, 0, -step, TOP)}
        with rasterio.open(path, "w", **form) as file:
            file.write(np.full((3, SIDE, SIDE), 90, np.uint8))
    write_segmenter(tmp_path / "net")
    area = box(14.999, 45.147, 15.005, 45.153)
    (tmp_path / "area.geojson").write_text(json.dumps(mapping(area)))
    recipe = {
        "name": "town",
        "product": "ugs",
        "area": {"file": "area.geojson"},
        "grid": {"crs": CRS},
        "images": {"catalog": str(ingest(tmp_path / "photos", when="2021-07-01").catalog)},
        "model": {"card": str(tmp_path / "net")},
        "store": "store",
    }
    [note] = engine.plan(recipe, base=tmp_path).notes
    assert "1 of 2 frames" in note
    assert "10.0 m" in note
    recipe["images"]["order"] = "nadir"
    assert len(engine.plan(recipe, base=tmp_path).notes) == 2
