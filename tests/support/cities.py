"""Cities of cells with vectors and classes, for tests that need embeddings and no run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import yaml
import zarr

from engine.datasets.patches import BANDS
from engine.grid import Grid, Tile
from engine.infer.aggregate import aggregate_names
from engine.infer.vectors import encode_vectors, vector_arrays
from engine.store.arrays import ArraySpec
from engine.store.digests import commit
from engine.store.ledger import RECORD, Ledger, State
from engine.store.repository import Store

CELL, TILE, SIDE = 320.0, 6400.0, 40  # metres, metres, cells along a city
WEST = 320_000.0
CODES = (2, 6, 11, 17)
CENTRES = np.random.default_rng(3).standard_normal((len(CODES), 12)) * 2.0
CRS = "EPSG:32633"
NORTH = 5_120_000 + SIDE * CELL
PIXELS = round(SIDE * CELL / 10)


def truth(seed: int) -> np.ndarray:
    """Classes in blocks of five cells."""
    blocks = np.random.default_rng(seed).choice(CODES, (SIDE // 5, SIDE // 5))
    return np.kron(blocks, np.ones((5, 5), int)).astype(np.uint8)


def embed(
    folder: Path,
    name: str,
    seed: int,
    kind: str = "float16",
    model: str = "m",
    bands: tuple[str, ...] = (),
    west: float = WEST,
    *,
    ended: bool = True,
    failed: bool = False,
    lake: bool = False,
    moved: float = 0.0,
    published: bool = False,
    more: tuple[str, ...] = (),
    features: dict[str, Any] | None = None,
    inside: float = 1.0,
) -> Path:
    """A store of an embedding with its recipe, as a run would have left it.

    Its 12 features are a model's, or the statistics of four bands. `lake`: the source tells water,
    and cells 1 to 4 of the first row are that. `moved`: all vectors are off by so much.
    `published`: the bands are channels of published vectors. `more`: names of further features,
    `features`: what the stage's settings say of them.
    `inside`: share of the columns that lie in the area, from the west.
    """
    bounds = west, 5_120_000.0, west + SIDE * CELL, 5_120_000 + SIDE * CELL
    grid = Grid.fit(bounds, crs=CRS, tile_size=TILE)
    n = round(TILE / CELL)
    names: Any = (*aggregate_names(bands), *more) if bands else range(12)
    key = "channels" if published else "bands"
    made_by: dict[str, Any] = {key: list(bands)} if bands else {"model": model}
    if features is not None:
        made_by["features"] = features
    specs = [
        ArraySpec("composite/bands", "uint16", 10.0, 640, 0, leading=(("band", ("B04",)),)),
        *vector_arrays("embedding/vectors", kind, names, CELL, n),
        ArraySpec("embedding/reason", "uint8", CELL, n, 255),
        *([ArraySpec("embedding/water", "float32", CELL, n, np.nan)] if lake else ()),
    ]
    store = Store.create(folder / f"{name}-store", grid, specs, band_names=["B04"])
    rng = np.random.default_rng(seed + 100)
    places = np.searchsorted(CODES, truth(seed))
    shift = rng.standard_normal(12) * 0.3
    vectors = CENTRES[places] + shift + rng.standard_normal((SIDE, SIDE, 12)) * 0.6
    vectors = vectors + moved
    vectors = np.concatenate([vectors, np.zeros((SIDE, SIDE, len(more)))], axis=-1)
    vectors[0, 0 : 5 if lake else 1] = np.nan
    outside = np.arange(SIDE) >= inside * SIDE
    vectors[:, outside] = np.nan
    values, scale = encode_vectors(np.moveaxis(vectors, -1, 0).astype(np.float32), kind)
    session = store.writer()
    root: Any = zarr.open_group(session.store, mode="r+")
    root["embedding/vectors"][:] = values
    if scale is not None:
        root["embedding/vectors_scale"][:] = scale
    reason = np.where(np.isnan(vectors[..., 0]), 6, 0)
    reason[:, outside] = 1
    root["embedding/reason"][:] = reason
    if lake:
        water = np.full((SIDE, SIDE), 0.05, np.float32)
        water[0, :5] = 0.5, 1.0, 0.8, 1.0, 1.0
        root["embedding/water"][:] = water
    root["composite/bands"][:] = 2000
    ledger = Ledger(grid.shape, {"embedding": False, "pool": False})
    ledger.create(root)
    record = np.zeros((), RECORD)
    record["state"], record["settings"] = State.DONE, 7
    for row in range(grid.n_rows):
        for col in range(grid.n_cols):
            ledger.put("embedding", Tile(row, col), record[()])
    if failed:
        lost = record.copy()
        lost["state"] = State.FAILED
        ledger.put("embedding", Tile(0, 0), lost[()])
    if ended:
        ledger.put("pool", Tile(0, 0), record[()])
    ledger.remember("embedding", 7, {**made_by, "cell": CELL, "dtype": kind})
    ledger.write(root)
    commit(session, "by hand")
    path = folder / f"{name}.yaml"
    told = {
        "name": name,
        "product": "embedding",
        "area": {"bbox": [12.6, 46.1, 12.8, 46.3]},
        "grid": {"crs": CRS, "resolution": 10, "tile": 640},
        "imagery": {"catalog": "nowhere.json", "period": "2023-01-01/2023-12-31", "bands": ["B04"]},
        "store": f"./{name}-store",
    }
    path.write_text(yaml.safe_dump(told))
    return path


def composite(folder: Path, name: str, seed: int) -> Path:
    """A composite of a city whose bands tell the classes, and its recipe."""
    bounds = WEST, 5_120_000.0, WEST + SIDE * CELL, NORTH
    grid = Grid.fit(bounds, crs=CRS, tile_size=TILE)
    specs = [
        ArraySpec("composite/bands", "uint16", 10.0, 640, 0, leading=(("band", BANDS),)),
        ArraySpec("composite/observations", "uint16", 10.0, 640, 0),
    ]
    store = Store.create(folder / f"{name}-map-store", grid, specs, band_names=BANDS)
    classes = np.kron(truth(seed), np.ones((32, 32), np.uint8))
    rng = np.random.default_rng(seed)
    tint = np.zeros((18, len(BANDS)))
    tint[list(CODES)] = np.random.default_rng(0).integers(0, 1500, (len(CODES), len(BANDS)))
    bands = tint[classes].transpose(2, 0, 1) + rng.integers(1500, 2500, (10, PIXELS, PIXELS))
    session = store.writer()
    root: Any = zarr.open_group(session.store, mode="r+")
    root["composite/bands"][:] = bands.astype(np.uint16)
    root["composite/observations"][:] = 3
    commit(session, "by hand")
    path = folder / f"{name}-map.yaml"
    made = {
        "name": name,
        "product": "lcz",
        "area": {"bbox": [12.6, 46.1, 12.8, 46.3]},
        "grid": {"crs": CRS, "resolution": 10, "tile": 640},
        "imagery": {"catalog": "nowhere.json", "period": "2023-01-01/2023-12-31"},
        "store": f"./{name}-map-store",
    }
    path.write_text(yaml.safe_dump(made))
    return path


def label(
    folder: Path,
    name: str,
    seed: int,
    share: float = 0.06,
    only: Any = CODES,
    west: float = WEST,
) -> Path:
    """A raster of some of a city's classes, 0 elsewhere."""
    known = np.random.default_rng(seed + 7).random((SIDE, SIDE)) < share
    classes = truth(seed)
    path = folder / f"{name}.tif"
    transform = rasterio.Affine(CELL, 0, west, 0, -CELL, 5_120_000 + SIDE * CELL)
    form = {"height": SIDE, "width": SIDE, "count": 1, "dtype": "uint8"}
    with rasterio.open(path, "w", driver="GTiff", crs=CRS, transform=transform, **form) as file:
        file.write(np.where(known & np.isin(classes, only), classes, 0).astype(np.uint8), 1)
    return path
