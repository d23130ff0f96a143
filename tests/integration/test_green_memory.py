"""A worker's memory does not grow with the tiles it has done."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
import zarr
from affine import Affine
from support.cards import write_segmenter

import engine
from engine.catalog.ingest import ingest
from engine.store.ledger import Ledger
from engine.store.repository import Store

pytestmark = pytest.mark.slow
WEST, NORTH = 400_000, 5_200_000  # multiples of the tile


def write_frames(folder: Path, side: int, across: int) -> Path:
    """Frames, as wide and so many in a row, of a pattern that is quickly written."""
    folder.mkdir()
    yy, xx = np.ogrid[:side, :side]
    pattern = np.stack([(yy // 8 + xx // step) % 256 for step in (8, 16, 32)]).astype(np.uint8)
    for row in range(across):
        for col in range(across):
            with rasterio.open(
                folder / f"frame_{row}{col}.tif",
                "w",
                driver="GTiff",
                count=3,
                height=side,
                width=side,
                dtype="uint8",
                crs="EPSG:32633",
                transform=Affine(1, 0, WEST + col * side, 0, -1, NORTH - row * side),
                tiled=True,
                photometric="rgb",
                interleave="pixel",
                compress="lzw",
            ) as file:
                file.write(pattern)
    return ingest(folder, when="2021-07-01").catalog


def peaks(store: Path) -> list[int]:
    """The most megabytes that a worker had had when it was done with each tile, by the ledger."""
    reader = Store.open(store).reader()
    root = zarr.open_group(reader.store, mode="r")
    ledger = Ledger(root["ledger/scores"].shape[:2], {"scores": False})
    ledger.load(reader, root)
    return sorted(int(record["megabytes"]) for _, _, record in ledger.records("scores"))


@pytest.mark.parametrize(
    ("tile", "widths", "ran", "side", "frames"),
    [
        (2000, (1, 3), (3,), 3000, 2),
        pytest.param(2000, (1, 3), (1, 3), 3000, 2, marks=pytest.mark.soak, id="each"),
        pytest.param(4000, (1, 2, 5), (1, 2, 5), 5000, 4, marks=pytest.mark.soak, id="default"),
    ],
)
def test_memory_is_that_of_one_tile(
    tmp_path: Path,
    tile: int,
    widths: tuple[int, ...],
    ran: tuple[int, ...],
    side: int,
    frames: int,
) -> None:
    """What a worker had had after its first tile is what it has had after its last one."""
    catalog = write_frames(tmp_path / "frames", side, frames)
    write_segmenter(tmp_path / "stub", patch=512, overlap=64, width=1)
    found: dict[int, list[int]] = {}
    for across in widths:
        box: dict[str, Any] = {
            "type": "Polygon",
            "coordinates": [
                [
                    [WEST + dx * tile * across, NORTH - dy * tile * across]
                    for dx, dy in [(0, 0), (1, 0), (1, 1), (0, 1), (0, 0)]
                ]
            ],
        }
        crs = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32633"}}
        feature = {"type": "Feature", "properties": {}, "geometry": box}
        area = {"type": "FeatureCollection", "crs": crs, "features": [feature]}
        (tmp_path / f"area-{across}.geojson").write_text(json.dumps(area))
        recipe = {
            "name": "memory",
            "product": "ugs",
            "area": {"file": str(tmp_path / f"area-{across}.geojson")},
            "grid": {"crs": "EPSG:32633", "tile": tile},
            "images": {"catalog": str(catalog)},
            "model": {"card": str(tmp_path / "stub")},
            "store": str(tmp_path / f"store-{across}"),
        }
        plan = engine.plan(recipe)
        assert plan.tiles == across**2
        assert plan.gigabytes_read == pytest.approx(1.5e-9 * (across * tile) ** 2)  # a guess
        if across not in ran:
            continue
        assert not engine.run(recipe, workers=1).failed
        found[across] = peaks(tmp_path / f"store-{across}")
        assert len(found[across]) == across**2
    least, most = min(found[ran[0]]), max(map(max, found.values()))
    assert most <= 1.1 * least, found
    # a torch that knows GPUs takes 0.35 GB more from the start
    before = 1000 if torch.version.cuda is None else 1200
    assert most <= before + 3 * 4 * tile**2 / 1e6, found
