"""Published vectors as the source of a product: aggregated, published and read by natmap again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr
from pyproj import Transformer
from support import shared
from support.embeddings import attributes, per_pixel, place, store, window

import engine
from engine.cube.published.opening import open_published
from engine.errors import RecipeError
from engine.pipeline.doctor import _catalogue
from engine.products.registry import load_recipe

pytestmark = pytest.mark.slow

UTM = "EPSG:32633"
WEST, NORTH, SIDE = 500_480.0, 5_800_320.0, 256


def source(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Vectors of 10 m under 8 x 8 cells; a lake, a seam and a hole. Also their states."""
    rng = np.random.default_rng(3)
    codes = rng.integers(-127, 128, (4, SIDE, SIDE)).astype(np.int8)
    scales = rng.uniform(0.01, 0.1, (SIDE, SIDE)).astype(np.float32)
    scales[64:96, 64:92] = np.nan  # 7 of 8 parts of a cell
    scales[100] = np.inf
    scales[160:200, 160:200] = 2.8e32
    attrs = attributes(4, **{"geoemb:quantization": per_pixel("+inf")})
    attrs |= place(UTM, (10, 0, WEST, 0, -10, NORTH), (SIDE, SIDE))
    root = zarr.open_group(folder / "t.zarr", mode="w", zarr_format=3)
    root.attrs.update(attrs | {"geoemb:spatial_layout": "utm_zones"})
    store(folder / "t.zarr" / "utm33", codes[None], scales[None], attrs, ("time", "band", "y", "x"))
    years = zarr.open_group(folder / "t.zarr" / "utm33", mode="a")
    array = years.create_array("time", shape=(1,), dtype="int32", dimension_names=("time",))
    array[:] = 2023
    state = np.where(np.isnan(scales), 1, np.where(scales <= 1, 0, 2))
    return codes.astype(np.float32) * np.where(state == 0, scales, 0), state


def recipe(folder: Path, name: str, tile: int, **more: Any) -> dict[str, Any]:
    move = Transformer.from_crs(UTM, "EPSG:4326", always_xy=True).transform
    west, south = move(WEST + 200, NORTH - 2400)
    east, north = move(WEST + 2400, NORTH - 200)
    return {
        "name": name,
        "product": "embedding",
        "area": {"bbox": [west, south, east, north]},
        "grid": {"crs": UTM, "resolution": 10, "tile": tile, "chunk": 160},
        "embeddings": {"source": str(folder / "t.zarr"), "year": 2023, **more},
        "store": str(folder / f"{name}-store"),
        "publish": str(folder / name),
    }


def test_cells_of_published_vectors(tmp_path: Path) -> None:
    vectors, state = source(tmp_path)
    one, other = recipe(tmp_path, "one", 160), recipe(tmp_path, "other", 320)
    for told in (one, other):
        assert shared.run(told).failed == ()
        assert shared.run(told).done == 0
    trees = [engine.open_store(told["store"], decode=False).load() for told in (one, other)]
    for path in ("embedding/vectors", "embedding/reason", "embedding/water", "map/departure"):
        mine, theirs = (tree[path] for tree in trees)
        theirs = theirs.reindex_like(mine, fill_value=mine.attrs.get("_FillValue", np.nan))
        inside = ~np.isin(trees[0]["map/reason"].values, (1, 255))  # outside, tiles not needed
        np.testing.assert_array_equal(mine.values[..., inside], theirs.values[..., inside])
    group = trees[0]["embedding"]
    names = [f"E{k:03d}_{kind}" for kind in ("mean", "std", "max") for k in range(4)]
    assert list(group["feature"].values) == names
    seen = {"vector": 0, "water": 0, "none": 0}
    for i, y in enumerate(group["y"].values):
        for j, x in enumerate(group["x"].values):
            row, col = round((NORTH - y - 160) / 10), round((x - 160 - WEST) / 10)
            if group["reason"].values[i, j] in (1, 255) or not (
                0 <= row < SIDE and 0 <= col < SIDE
            ):
                continue
            here = np.s_[row : row + 32, col : col + 32]
            valid = state[here] == 0
            assert group["water"].values[i, j] == np.float32((state[here] == 1).mean())
            found = group["vectors"].values[:, i, j]
            if valid.sum() < 0.9 * 32 * 32:
                assert np.isnan(found).all()
                assert group["reason"].values[i, j] == (2 if (state[here] == 2).any() else 6)
                seen["water" if group["water"].values[i, j] >= 0.8 else "none"] += 1
                continue
            inside = vectors[:, *here][:, valid].astype(np.float64)
            wanted = np.concatenate([inside.mean(1), inside.std(1), inside.max(1)])
            np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-6)  # float16
            seen["vector"] += 1
    assert seen["vector"] > 20
    assert seen["water"] == 1
    assert seen["none"] >= 1


def test_it_is_published_and_read_again(tmp_path: Path) -> None:
    source(tmp_path)
    told = recipe(tmp_path, "p", 160, licence="CC-BY-4.0", attribution="Those who made it")
    assert shared.run(told).failed == ()
    folder = Path(str(engine.publish(told)))
    report = json.loads((folder / "report.json").read_text())
    assert "Those who made it" in json.dumps(report["rights"])
    assert "2023-12-31" in json.dumps(json.loads((folder / "collection.json").read_text()))
    found = open_published(folder / "p-embeddings.zarr")
    tree = engine.open_store(told["store"], decode=False).load()
    assert found.channels == tuple(map(str, tree["embedding"]["feature"].values))
    dataset = xr.open_zarr(folder / "p-embeddings.zarr", consolidated=False)

    height, width = dataset["embeddings"].shape[1:]
    box = window(
        UTM, float(dataset["x"][0]) - 160, float(dataset["y"][0]) + 160, (height, width), 320
    )
    vectors, state = found.read(box, 2023)
    np.testing.assert_array_equal(vectors, dataset["embeddings"].values.astype(np.float32))
    assert (state == 2).sum() == np.isnan(dataset["embeddings"].values[0]).sum()


def test_what_cannot_be_done_is_said_before_work_starts(tmp_path: Path) -> None:
    source(tmp_path)
    with pytest.raises(RecipeError, match="no such year"):
        engine.plan(recipe(tmp_path, "r", 160, year=2019))
    both = recipe(tmp_path, "r", 160) | {
        "imagery": {"catalog": "x", "period": "2023-01-01/2023-02-01"}
    }
    with pytest.raises(RecipeError, match="exactly one"):
        engine.plan(both)
    none = recipe(tmp_path, "r", 160)
    none["embeddings"]["source"] = str(tmp_path / "nowhere")
    with pytest.raises(RecipeError, match="no published embeddings here"):
        engine.plan(none)
    text = _catalogue(load_recipe(recipe(tmp_path, "r", 160)), tmp_path)
    assert "4 channels of 2023" in text


def test_another_source_makes_tiles_stale(tmp_path: Path) -> None:
    source(tmp_path)
    told = recipe(tmp_path, "s", 160)
    assert shared.run(told, until="embedding").done
    assert shared.run(told, until="embedding").done == 0
    group = zarr.open_group(tmp_path / "t.zarr" / "utm33", mode="a")
    group["scales"][0, :32, :32] = 0.2
    assert shared.run(told, until="embedding").done
